"""Where a peer could not be given its best, in its own words."""

from collections.abc import Iterable

from bench.results.detail import BuiltDetail
from reports import words
from reports.table import Cell, Table, grouped, text

COLUMNS = (
    text("Peer", lambda entry: Cell(words.listing(entry[1]), "strong")),
    text("Not at its best", lambda entry: Cell(entry[0], "prose")),
)


def table(details: Iterable[tuple[str, BuiltDetail]]) -> tuple[Table, ...]:
    """One table of what methods tell in these details of their records, each sentence once; none where all had their
    best."""
    by_sentence: dict[str, dict[str, None]] = {}
    for method, detail in details:
        for sentence in detail.handicaps:
            by_sentence.setdefault(sentence, {})[method] = None
    if not by_sentence:
        return ()
    return (grouped(COLUMNS, by_sentence.items(), len(by_sentence), title="Where a peer could not be given its best"),)
