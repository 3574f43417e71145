"""By which of its tiers an engine ran each encoder, and why by no faster one."""

from __future__ import annotations

from collections.abc import Iterable

from bench.results.schema import Record
from bench.results.tiers import ran
from bench.results.training import TrainingPoint
from reports import words
from reports.tables import Cell, Column, Group, Table

COLUMNS = (
    Column("Encoder", numeric=False),
    Column("Engine", numeric=False),
    Column("Precision", numeric=False),
    Column("Tier", numeric=False),
    Column("Why no faster one", numeric=False),
    Column("Method", numeric=False),
)


def table(ended: Iterable[Record | TrainingPoint]) -> tuple[Table, ...]:
    """A row for each encoder, engine, precision and tier; none where no engine told of any."""
    methods: dict[tuple[str, ...], dict[str, None]] = {}
    for each in ended:
        told = ran(each)
        if told.tier is None:
            continue
        encoder = words.encoder({"layers": None, **each.case})
        key = (
            encoder,
            each.engine,
            words.plain(each.case.get("precision")),
            told.tier,
            told.why or "the fastest",
        )
        methods.setdefault(key, {})[each.label] = None
    rows = tuple(
        (Cell(key[0], "strong"), *map(Cell, key[1:4]), Cell(key[4], "prose"), Cell(words.listing(labels)))
        for key, labels in methods.items()
    )
    return (Table(COLUMNS, (Group("", rows),), title="How the engine ran encoders"),) if rows else ()
