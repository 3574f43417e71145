"""Several processes that train together: how they scale, what they share, and what communication costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.results.analysis.summary import Frames
from bench.results.identity import Line, line_of
from bench.results.schema import Record
from bench.results.store import LoadedRun
from reports import numbers, scaling, words
from reports.document import Section
from reports.tables import Cell, Column, grouped

PLACE = 50

COLUMNS = (
    Column("Method", numeric=False),
    Column("Users", "per s"),
    Column("Against one process"),
    Column("Sharing items", "time local / global"),
    Column("Unique items", "sum over processes / joined"),
    Column("Communication", "% of the step"),
    Column("Waiting", "% of the step"),
    Column("Peak memory", "of each process", numeric=False),
)
LIMIT = 200
NOTES = (
    "Each process has as many users as the case says, and a step is one step on all of them joined. In the engine "
    "eager, e2e runs in torch's DistributedDataParallel; in the others its gradients are summed as every method's are. "
    "Where items are shared, each is encoded by one process and read by all; where not, each process encodes the "
    "unique items of its own users. multi_step always shares them.",
    "Communication is the part of a step in which nothing else happens: its time less that of the same steps "
    "without any communication, taken by the same processes right after the measured windows, from graphs of their own "
    "where steps are replayed. Waiting is what the fastest process's device waits for the slowest's: the difference of "
    "their steps without communication.",
)

Row = Mapping[Any, Any]


def make(run: LoadedRun, derived: Frames) -> Section | None:
    """None where every case had one process."""
    if (derived.summary["world_size"] == 1).all():
        return None
    rows = derived.summary.to_dict("records")
    several = [row for row in rows if row["world_size"] != 1 and numbers.exists(row["users_per_s"])]
    if not several:
        return None
    by_line = {line_of(row): row for row in rows}
    of_ranks = {record.line: (_peaks(record), _waits(record)) for record in reversed(run.records) if _of_ranks(record)}

    def line(row: Row) -> tuple[str, tuple[Cell, ...]]:
        return words.case(row), _cells(row, by_line, *of_ranks.get(line_of(row), ("", None)))

    table = grouped(COLUMNS, several, line, LIMIT)
    return Section("processes", "Several processes", NOTES, (table,), "Processes")


def _cells(row: Row, by_line: Mapping[Line, Row], peaks: str, waits: float | None) -> tuple[Cell, ...]:
    line = line_of(row)
    apart = by_line.get(replace(line, setting=line.setting.but(deduplicate="local")))
    alone = scaling.alone(row, by_line)
    shares = row["deduplicate"] in ("global", "auto") and row["method"] not in ("e2e", "multi_step")
    joined, own = row["unique_items"], row["ranks_unique_items"]
    share = row["communication_s"] / row["median_s"] if numbers.exists(row["communication_s"]) else None
    return (
        Cell(row["label"], "strong"),
        Cell(numbers.rate(row["users_per_s"], row["scatter"])),
        Cell(numbers.scattered(scaling.ratio(row, alone, "users_per_s"), scaling.scatter(row, alone)), "strong"),
        Cell(numbers.scattered(scaling.ratio(apart, row, "median_s") if shares else None, scaling.scatter(row, apart))),
        Cell(numbers.number(own / joined) if numbers.exists(own) and joined else numbers.MISSING),
        Cell(numbers.percent(share).removesuffix(" %")),
        Cell(numbers.percent(waits).removesuffix(" %")),
        Cell(peaks),
    )


def _of_ranks(record: Record) -> bool:
    return bool(record.ranks) and record.replica == 0


def _peaks(record: Record) -> str:
    """A record's peaks by process."""
    peaks = [rank.peak_memory_bytes for rank in record.ranks]
    known = [peak.process if peak.allocated is None else peak.allocated for peak in peaks]
    return ", ".join(numbers.gibibytes(peak) for peak in known)


def _waits(record: Record) -> float | None:
    """What the fastest process waits for the slowest in a step, as a part of it; None where devices keep no time."""
    alone = [rank.alone_s for rank in record.ranks if rank.alone_s is not None]
    if len(alone) < len(record.ranks) or not record.samples_s:
        return None
    return (max(alone) - min(alone)) / statistics.median(record.samples_s)
