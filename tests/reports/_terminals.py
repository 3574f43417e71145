"""A run as a terminal shows it, and one that knows ASCII only."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

from rich.console import Console

from reports import page
from reports.plain_signs import write_in_plain_signs
from reports.terminal import shown


def printed(run_dir: Path, width: int) -> str:
    """What a terminal of so many columns shows of a run."""
    out = io.StringIO()
    _print(run_dir, width, out)
    return out.getvalue()


def plainly_printed(run_dir: Path) -> str:
    """The same of a narrow one that knows ASCII only."""
    out = ascii_terminal()
    _print(run_dir, 80, out)
    return written(out)


def _print(run_dir: Path, width: int, out: IO[str]) -> None:
    Console(file=out, width=width).print(shown(page.read(run_dir, draw=False), width))


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
