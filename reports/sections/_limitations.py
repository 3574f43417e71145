"""Where a peer could not be given its best, in its own words."""

from __future__ import annotations

from collections.abc import Iterable

from bench.results.detail import BuiltDetail
from reports import words
from reports.tables import Cell, Column, Group, Table

COLUMNS = (Column("Peer", numeric=False), Column("Not at its best", numeric=False))


def table(details: Iterable[tuple[str, BuiltDetail]]) -> tuple[Table, ...]:
    """One table of what methods tell in these details of their records, each sentence once; none where all had their
    best."""
    by_sentence: dict[str, dict[str, None]] = {}
    for method, detail in details:
        for sentence in detail.handicaps:
            by_sentence.setdefault(sentence, {})[method] = None
    rows = tuple(
        (Cell(words.listing(methods), "strong"), Cell(sentence, "prose")) for sentence, methods in by_sentence.items()
    )
    return (Table(COLUMNS, (Group("", rows),), title="Where a peer could not be given its best"),) if rows else ()
