"""What a first run prints at its end, from its raw measurements."""

from __future__ import annotations

import io

from rich.console import Console

from docs.tools.gallery import run
from reports import page
from reports.terminal import shown

WIDTH = 100
"""Columns of the terminal."""


def first_output() -> str:
    """All that a first run prints at its end."""
    return _fenced(_printed())


def first_tables() -> str:
    """Its tables alone."""
    printed = _printed()
    return _fenced(printed[next(place for place, line in enumerate(printed) if line.startswith("Real log")) :])


def _printed() -> list[str]:
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    console.print(shown(page.of_run(run("cpu-quick"), draw=False), WIDTH))
    return [line.rstrip() for line in console.file.getvalue().strip().splitlines()]  # type: ignore[attr-defined]


def _fenced(lines: list[str]) -> str:
    return "\n".join(["```text", *lines, "```"])
