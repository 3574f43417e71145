"""A table as a value: page, Markdown and terminal print the same cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from reports import numbers, words

Row = Mapping[str, Any]
T = TypeVar("T")

MAY_BE_ONE = f"may be 1{numbers.TIMES}"
"""Of a ratio whose interval holds 1."""
HOLDS_ONE = f"{MAY_BE_ONE.capitalize()}: the 95 % interval holds 1, so that there may be no difference."
MIDDLE, WIDE = 110, 150
"""Columns of text from which on a terminal shows further columns of a table."""


@dataclass(frozen=True)
class Cell:
    """`kind` says how to show it (muted, bad, badge, strong, or prose, which wraps); `bar` is a length between 0 and 1;
    `note` is small."""

    text: str
    kind: str = ""
    note: str = ""
    bar: float | None = None
    short: str = ""
    """What replaces text and note where there is no room for the note; empty where the text will do."""


@dataclass(frozen=True)
class Column:
    """A heading, and what of a line is below it; the unit holds for every number that names none itself."""

    label: str
    of: Callable[[Any], Cell | str]
    """A line -> its cell, or the text of a plain one."""
    unit: str = ""
    numeric: bool = True
    short: str = ""
    """Label and unit for a narrow window; empty where the label will do."""
    from_width: int = 0
    """The narrowest terminal that shows it."""
    noted: bool = False
    """Whether a terminal shows its cells' notes where there is room."""


def text(label: str, of: Callable[[Any], Cell | str], unit: str = "", from_width: int = 0) -> Column:
    """A column of text."""
    return Column(label, of, unit, numeric=False, from_width=from_width)


@dataclass(frozen=True)
class Group:
    """Rows under one heading, which may have a short form; an empty title prints none."""

    title: str
    rows: tuple[tuple[Cell, ...], ...]
    short: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `left_out` counts the rows that were not made, for a reader to look up in summary.csv."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    caption: str = ""
    left_out: int = 0
    title: str = ""

    @property
    def rows(self) -> int:
        """Rows in all groups."""
        return sum(len(group.rows) for group in self.groups)

    @property
    def below(self) -> str:
        """The caption, and what MAY_BE_ONE means where a cell says so."""
        found = any(MAY_BE_ONE in cell.note for group in self.groups for row in group.rows for cell in row)
        return " ".join(part for part in (self.caption, HOLDS_ONE if found else "") if part)

    def with_columns(self, keep: Callable[[int, Column], bool]) -> Table:
        """The same with those columns alone that are kept, by their place."""
        kept = [place for place, column in enumerate(self.columns) if keep(place, column)]
        groups = [
            replace(group, rows=tuple(tuple(row[at] for at in kept) for row in group.rows)) for group in self.groups
        ]
        return replace(self, columns=tuple(self.columns[place] for place in kept), groups=tuple(groups))

    def without_empty(self, *labels: str) -> Table:
        """The table less those columns of these labels in which no line has anything to say."""
        rows = [row for group in self.groups for row in group.rows]
        return self.with_columns(
            lambda place, column: (
                column.label not in labels or any(row[place].text not in ("", numbers.MISSING) for row in rows)
            )
        )


def group(columns: Iterable[Column], title: str, lines: Iterable[Any], short: str = "") -> Group:
    """Lines as rows under one heading."""
    found = (tuple(column.of(line) for column in columns) for line in lines)
    rows = tuple(tuple(each if isinstance(each, Cell) else Cell(each) for each in row) for row in found)
    return Group(title, rows, short)


def grouped(
    columns: tuple[Column, ...],
    lines: Iterable[T],
    limit: int,
    heading: Callable[[T], str] = lambda _: "",
    title: str = "",
) -> Table:
    """Lines as rows under their headings, at most `limit` of them."""
    every = list(lines)
    groups: dict[str, list[T]] = {}
    for line in every[:limit]:
        groups.setdefault(heading(line), []).append(line)
    made = tuple(group(columns, name, own) for name, own in groups.items())
    return Table(columns, made, left_out=max(0, len(every) - limit), title=title)


def label(row: Row) -> Cell:
    """The method's."""
    return Cell(row["label"], "strong")


def plain(name: str) -> Callable[[Row], str]:
    """An axis as one would type it."""
    return lambda row: numbers.plain(row[name])


def outcome(row: Row) -> Cell:
    """How a line ended."""
    return Cell(words.OUTCOMES[row["outcome"]], "muted" if row["outcome"] == "ok" else "bad")


def gradient(row: Row) -> Cell:
    """How exact the method is."""
    return Cell(words.exactness(row), "badge")


def step_time(row: Row) -> str:
    """Milliseconds of a step."""
    return numbers.milliseconds(row["median_s"], row["scatter"])


def rate(name: str) -> Callable[[Row], str]:
    """Something per second, with the digits that its line's windows leave known."""
    return lambda row: numbers.rate(row[name], row["scatter"])


def ratio_cell(row: Row, name: str) -> Cell:
    """A ratio with its interval; no result to point at where the interval leaves open that there is no difference."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    text, spread = numbers.speed_up(row, name), numbers.ratio_range(low, high)
    if not spread:
        return Cell(text, "strong")
    short = f"{text} ±{numbers.percent((high / low) ** 0.5 - 1)}"
    if numbers.may_be_one(low, high):
        return Cell(text, "", f"{spread}, {MAY_BE_ONE}", short=f"{text}, {MAY_BE_ONE}")
    return Cell(text, "strong", spread, short=short)


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown; a group's title becomes a row of its own."""
    heads = [column.label + (f" ({column.unit})" if column.unit else "") for column in table.columns]
    lines = ["| " + " | ".join(escape(head) for head in heads) + " |"]
    lines.append("|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|")
    for each in table.groups:
        if each.title:
            lines.append("| **" + escape(each.title) + "** |" + " |" * (len(table.columns) - 1))
        for row in each.rows:
            texts = [escape(f"{cell.text} ({cell.note})" if cell.note else cell.text) for cell in row]
            lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def escape(sentence: str) -> str:
    """Text that neither Markdown nor the HTML inside it reads as markup."""
    sentence = " ".join(sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
    for sign in "\\`*_|[]":
        sentence = sentence.replace(sign, "\\" + sign)
    return sentence
