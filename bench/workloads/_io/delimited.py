"""CSV and TSV, read strictly: as spreadsheets write them, with a header, in UTF-8; the first malformed row is an error.

A quoted field may hold separators, line ends and doubled quotation marks. A mark within a field that does not begin
with one is text. Lines end with a line feed, or a carriage return and a line feed; another carriage return belongs into
a quoted field.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.workloads._base import MalformedData, lines

SEPARATORS = {".csv": ",", ".tsv": "\t"}
CHUNK = 1 << 17
"""Rows handed on at once."""
LONGEST_FIELD = 1 << 24
"""Characters. An opened quotation mark that nothing closes would take the rest of the file into memory."""


@dataclass(frozen=True)
class TextChunk:
    """Some rows' fields, column by column, and where each row begins."""

    columns: dict[str, tuple[str, ...]]
    place: Callable[[int], str]


def chunks(path: Path, columns: Sequence[str]) -> Iterator[TextChunk]:
    """The asked-for columns of all rows; raises MalformedData naming file and line."""
    found = _rows(path)
    _, header = next(found, (1, []))
    places = places_of(f"{path}, line 1", header, columns)
    numbers: list[int] = []
    kept: list[list[str]] = [[] for _ in places]
    adders = [(place, column.append) for place, column in zip(places, kept, strict=True)]
    for number, fields in found:
        if len(fields) != len(header):
            raise MalformedData(f"{path}, line {number}: expected {len(header)} fields, found {len(fields)}")
        numbers.append(number)
        for place, add in adders:  # columns at once: a list a row would be walked by every garbage collection
            add(fields[place])
        if len(numbers) == CHUNK:
            yield _chunk(columns, kept, numbers)
            numbers = []
            for column in kept:
                column.clear()
    if numbers:
        yield _chunk(columns, kept, numbers)


def places_of(where: str, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Where the asked-for columns are; raises MalformedData, opening with `where`, for one that is missing or twice."""
    if missing := [column for column in columns if column not in header]:
        raise MalformedData(
            f"{where}: expected the columns {', '.join(columns)}; {', '.join(missing)} is not among "
            f"{', '.join(header) or 'nothing'}"
        )
    if twice := [column for column in columns if header.count(column) > 1]:
        raise MalformedData(f"{where}: there are {header.count(twice[0])} columns {twice[0]}")
    return [header.index(column) for column in columns]


def _chunk(columns: Sequence[str], kept: Sequence[Sequence[str]], numbers: list[int]) -> TextChunk:
    fields = {column: tuple(values) for column, values in zip(columns, kept, strict=True)}
    return TextChunk(fields, lambda row: f"line {numbers[row]}")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line that each row begins at, and its fields, without empty lines."""
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(newline="\n", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, delimiter=SEPARATORS[path.suffix.lower()], strict=True)
        begun = 1
        try:
            for fields in reader:
                if fields:
                    yield begun, fields
                begun = reader.line_num + 1
        except UnicodeDecodeError as error:
            for _ in lines(path):  # finds the line, and raises
                pass
            raise MalformedData(f"{path}: not UTF-8") from error
        except csv.Error as error:
            raise MalformedData(f"{path}, line {begun}: {_reason(str(error), begun, reader.line_num)}") from error


def _reason(message: str, begun: int, reached: int) -> str:
    """What the parser found between two lines, and what to do."""
    twice = "close it, or put a field that holds quotation marks into quotation marks and write those inside it twice"
    if message.startswith("new-line character"):
        return "a carriage return is in a field without quotation marks; quote the field, or end lines as others do"
    if message.startswith("field larger"):
        return f"a quotation mark opens a field of more than {LONGEST_FIELD:,} characters; {twice}"
    if message.startswith("unexpected end"):
        return f"a quotation mark opens a field and nothing closes it; {twice}"
    if reached > begun:
        return (
            f"a quotation mark opens a field that is closed at line {reached} only, with text behind the mark; {twice}"
        )
    return f"text follows the quotation mark that closes a field; {twice}"
