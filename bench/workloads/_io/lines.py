"""Lines of a text file, numbered, with an error that names the line where one is not UTF-8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.workloads._base import MalformedData


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text without its end, of every line; raises MalformedData, OSError."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise MalformedData(f"{path}, line {number}: not UTF-8") from error
