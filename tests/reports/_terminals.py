"""A run as a terminal shows it, and one that knows ASCII only."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

from rich.console import Console

from reports import page
from reports.document import Document
from reports.plain_signs import write_in_plain_signs
from reports.terminal import shown


def printed(run: Path | Document, width: int) -> str:
    """What a terminal of so many columns shows of a run, which has been read or lies in a folder."""
    out = io.StringIO()
    _print(run, width, out)
    return out.getvalue()


def plainly_printed(run: Path | Document) -> str:
    """The same of a narrow one that knows ASCII only."""
    out = ascii_terminal()
    _print(run, 80, out)
    return written(out)


def read(run_dir: Path) -> Document:
    """What is printed of a run, at any width."""
    return page.read(run_dir, draw=False)


def _print(run: Path | Document, width: int, out: IO[str]) -> None:
    Console(file=out, width=width).print(shown(read(run) if isinstance(run, Path) else run, width))


def ascii_terminal() -> io.TextIOWrapper:
    """A stream to print on, as a command makes its own ready."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    write_in_plain_signs(out)
    return out


def written(out: io.TextIOWrapper) -> str:
    """What was printed on it."""
    out.flush()
    raw = out.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode("ascii")
