"""Several processes that train together: how they scale, what they share, and what communication costs."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.results.analysis.summary import Frames
from bench.results.identity import line_of
from bench.results.schema import Record
from bench.results.store import LoadedRun
from reports import numbers, scaling, words
from reports.document import Section
from reports.table import Cell, Column, grouped, label, rate, text

PLACE = 50

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
    of_ranks = {record.line: record for record in reversed(run.records) if record.ranks and record.replica == 0}

    def against_one(row: Row) -> Cell:
        alone = scaling.alone(row, by_line)
        ratio = scaling.ratio(row, alone, "users_per_s")
        return Cell(numbers.scattered(ratio, scaling.scatter(row, alone)), "strong")

    def sharing(row: Row) -> str:
        line = line_of(row)
        apart = by_line.get(replace(line, setting=line.setting.but(deduplicate="local")))
        shares = row["deduplicate"] in ("global", "auto") and row["method"] not in ("e2e", "multi_step")
        ratio = scaling.ratio(apart, row, "median_s") if shares else None
        return numbers.scattered(ratio, scaling.scatter(row, apart))

    columns = (
        text("Method", label),
        Column("Users", rate("users_per_s"), "per s"),
        Column("Against one process", against_one),
        Column("Sharing items", sharing, "time local / global"),
        Column("Unique items", _unique, "sum over processes / joined"),
        Column("Communication", _communication, "% of the step"),
        Column("Waiting", lambda row: numbers.percentage(_waits(of_ranks.get(line_of(row)))), "% of the step"),
        text("Peak memory", lambda row: _peaks(of_ranks.get(line_of(row))), "of each process"),
    )
    table = grouped(columns, several, LIMIT, words.case)
    return Section("processes", "Several processes", NOTES, (table,), "Processes")


def _unique(row: Row) -> str:
    joined, own = row["unique_items"], row["ranks_unique_items"]
    return numbers.number(own / joined) if numbers.exists(own) and joined else numbers.MISSING


def _communication(row: Row) -> str:
    share = row["communication_s"] / row["median_s"] if numbers.exists(row["communication_s"]) else None
    return numbers.percentage(share)


def _peaks(record: Record | None) -> str:
    """A record's peaks by process."""
    peaks = [rank.peak_memory_bytes for rank in (record.ranks if record else ())]
    known = [peak.process if peak.allocated is None else peak.allocated for peak in peaks]
    return ", ".join(numbers.gibibytes(peak) for peak in known)


def _waits(record: Record | None) -> float | None:
    """What the fastest process waits for the slowest in a step, as a part of it; None where devices keep no time."""
    ranks, samples_s = (record.ranks, record.samples_s) if record else ((), ())
    alone = [rank.alone_s for rank in ranks if rank.alone_s is not None]
    if len(alone) < len(ranks) or not samples_s:
        return None
    return (max(alone) - min(alone)) / statistics.median(samples_s)
