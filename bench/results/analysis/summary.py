"""Derived numbers as pandas frames: everything that a report prints and that no record stores.

A comparison pairs two rows only where they share the case (its axes, precision among them), engine, dropout, padding
and optimizer. It is made block by block, since a block's processes ran next to each other in time, and the blocks'
values give the ratio its interval (bench.results.analysis.stats); with one block there is a ratio and no interval.
Rows that were not measured stay, with outcome and reason; their numbers are missing, never zero. The canary's second
e2e process is no row: it shows in the columns canary, canary_low and canary_high of its case.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from bench.results.analysis import stats
from bench.results.analysis.frames import IDENTITY, FrameSet, Row, frame, identity_row, memory, with_ends, with_interval
from bench.results.analysis.stats import REFERENCE
from bench.results.identity import AXES, LINE, SETTING, Line
from bench.results.schema import MEASURED, Record

UNIQUE_REFERENCE = "e2e_unique"
"""Autograd over unique items: what plain deduplication gives without GRAM."""
SINGLE_STEP = "single_step"
"""What every other method is held against besides the references: exact, and ours."""
FIRST_ENGINE = "eager"

_RATES = ("users_per_s", "item_slots_per_s", "real_tokens_per_s")
_PEAKS = ("allocated_bytes", "reserved_bytes", "process_bytes")
_MEDIANS = (*MEASURED, "ranks_unique_items", "mfu", *_RATES, *_PEAKS, "loss_first", "loss_last")
_COMPARED = (
    *with_ends("speed_up"),
    *(f"speed_up_{each}" for each in ("half_width", "scatter", "blocks", "hodges_lehmann", "notes")),
    *with_ends("speed_up_unique", "against_single_step"),
    "memory_ratio",
    *with_ends("canary"),
)
_JOINED = ("blocks", "ok_blocks", "samples", "median_s", "min_s", "max_s", "scatter")
_AGAINST = {REFERENCE: "speed_up", UNIQUE_REFERENCE: "speed_up_unique", SINGLE_STEP: "against_single_step"}
"""What every line is compared with, and the column that says how it comes out."""
_OUTCOMES = ("reference_outcome", "unique_reference_outcome", "single_step_outcome")
"""How these ended."""
_ENDED = ("outcome", "reason")
_MEMORY = ("memory_bytes", "memory_kind")
RECORD_COLUMNS = (*IDENTITY, "block", "seed", "outcome", "reason", "samples", "median_s", "scatter", *_MEDIANS)
SUMMARY_COLUMNS = (*IDENTITY, *_ENDED, *_JOINED, *_COMPARED, *_OUTCOMES, *_MEDIANS, *_MEMORY)
_SHARES = with_ends("engine_share", "method_share", "total")
ENGINE_COLUMNS = (*AXES, *SETTING, *LINE, "label", "weights", "log", *_SHARES, "median_s", "scatter")
_TEXT = (*_ENDED, "speed_up_notes", *_OUTCOMES, "memory_kind")

_Lines = dict[Line, list[Record]]


@dataclass(frozen=True)
class Frames(FrameSet):
    """Three views of one run; axes keep their own types, numbers are floats, NaN where there is none.

    records: one row per record (RECORD_COLUMNS).
    summary: one row per case x method label x engine (SUMMARY_COLUMNS), blocks joined.
    engines: one row per measured line of an engine other than `eager` (ENGINE_COLUMNS): `engine_share` = e2e eager /
    e2e of this engine, `method_share` = e2e / method inside this engine, `total` = e2e eager / method.
    """

    records: pd.DataFrame
    summary: pd.DataFrame
    engines: pd.DataFrame


def frames(records: Iterable[Record]) -> Frames:
    """All derived numbers of a run's records."""
    rows: dict[Line, list[Row]] = {}
    lines, canaries = _Lines(), _Lines()
    for record in records:
        (canaries if record.replica else lines).setdefault(record.line, []).append(record)
        if record.replica == 0:
            rows.setdefault(record.line, []).append(_record_row(record))
    summary = {line: _summary_row(own) for line, own in rows.items()}
    _compare(summary, lines)
    _add_canaries(summary, lines, canaries)
    return Frames(
        frame([row for own in rows.values() for row in own], RECORD_COLUMNS, _TEXT),
        frame(list(summary.values()), SUMMARY_COLUMNS, _TEXT),
        frame(_engines(summary, lines), ENGINE_COLUMNS, _TEXT),
    )


def _record_row(record: Record) -> Row:
    row = identity_row(record, record.detail)
    row |= {name: getattr(record, name) for name in ("block", "seed", "outcome", "reason", *MEASURED)}
    row["ranks_unique_items"] = sum(rank.unique_items or 0.0 for rank in record.ranks) or None
    row["samples"] = len(record.samples_s)
    row["median_s"] = median(record.samples_s) if record.outcome == "ok" and record.samples_s else None
    row["scatter"] = stats.scatter(record.samples_s) if record.outcome == "ok" else None
    row["mfu"] = utilisation(row)
    for value, pattern in (
        (record.throughput_per_s, "{}_per_s"),
        (record.loss, "loss_{}"),
        (record.peak_memory_bytes, "{}_bytes"),
    ):
        row |= {pattern.format(name): each for name, each in value or ()}
    return row


def utilisation(row: Mapping[str, Any]) -> float | None:
    """Useful operations per second as a part of the matrix rate; None where either is unknown."""
    flops, rate, seconds = (row.get(name) for name in ("useful_flops", "matrix_flops_per_s", "median_s"))
    return flops / seconds / rate if flops is not None and rate and seconds else None


def _summary_row(line: list[Row]) -> Row:
    """Joins the blocks of one line. It is `ok` if any block is, with the first failure's reason."""
    measured = [row for row in line if row["outcome"] == "ok"]
    failed = [row for row in line if row["outcome"] != "ok"]
    row: Row = {name: line[0][name] for name in IDENTITY}
    row["outcome"] = "ok" if measured else failed[0]["outcome"]
    row["reason"] = failed[0]["reason"] if failed else None
    row["blocks"], row["ok_blocks"] = len(line), len(measured)
    row["samples"] = sum(each["samples"] for each in measured)
    times = [each["median_s"] for each in measured if each["median_s"] is not None]
    if times:
        row |= {"median_s": median(times), "min_s": min(times), "max_s": max(times)}
        row["scatter"] = stats.scatter(times) if len(times) > 1 else measured[0]["scatter"]
    row |= {name: stats.middle(each.get(name) for each in measured or line) for name in _MEDIANS}
    row["mfu"] = utilisation(row)
    return row | memory(row["allocated_bytes"], row["process_bytes"]) if measured else row


def _ratio(lines: _Lines, reference: Line, method: Line) -> stats.Estimate | None:
    """Reference / method over the blocks that hold both; None where none does."""
    return stats.compared(lines.get(reference, ()), lines.get(method, ()))


def _compare(summary: Mapping[Line, Row], lines: _Lines) -> None:
    """Adds speed-ups against both references and single_step, and memory ratios, to the rows."""
    for line, row in summary.items():
        for (method, prefix), outcome in zip(_AGAINST.items(), _OUTCOMES, strict=True):
            other = Line(line.setting, method)
            reference = summary.get(other)
            row[outcome] = reference["outcome"] if reference else "absent"
            ratio = _ratio(lines, other, line)
            if ratio is not None:
                row |= with_interval(prefix, ratio.value, ratio.interval)
                if prefix == "speed_up":
                    row |= _quality(ratio)
                    row["speed_up_scatter"] = _joined_scatter(row, reference) if ratio.blocks == 1 else None
        reference = summary.get(Line(line.setting, REFERENCE))
        if reference and row.get("memory_kind") and row["memory_kind"] == reference.get("memory_kind"):
            row["memory_ratio"] = row["memory_bytes"] / reference["memory_bytes"] if reference["memory_bytes"] else None


def _joined_scatter(row: Row, reference: Row | None) -> float | None:
    """What the windows of both processes leave open of their ratio, relative."""
    both = [each["scatter"] for each in (row, reference) if each is not None and each["scatter"] is not None]
    return math.hypot(*both) if len(both) == 2 else None


def _quality(ratio: stats.Estimate) -> Row:
    """How far a speed-up can be relied on. What the mean's notes say of one block alone, its missing interval says."""
    return {
        "speed_up_half_width": ratio.half_width,
        "speed_up_blocks": ratio.blocks,
        "speed_up_hodges_lehmann": math.exp(ratio.hodges_lehmann),
        "speed_up_notes": "; ".join(ratio.notes) if ratio.blocks > 1 else "",
    }


def _add_canaries(summary: Mapping[Line, Row], lines: _Lines, canaries: _Lines) -> None:
    """e2e against its own replica, in every line of the case."""
    found = {line.setting: stats.canary([*lines.get(line, ()), *replicas]) for line, replicas in canaries.items()}
    for line, row in summary.items():
        canary = found.get(line.setting)
        if canary is not None:
            row |= with_interval("canary", canary.value, canary.interval)


def _engines(summary: Mapping[Line, Row], lines: _Lines) -> list[Row]:
    """Splits what an engine and a method together gain over e2e eager."""
    rows = []
    for line, row in summary.items():
        if line.setting.engine == FIRST_ENGINE or row.get("median_s") is None:
            continue
        same_engine = Line(line.setting, REFERENCE)
        eager = Line(line.setting.but(engine=FIRST_ENGINE), REFERENCE)
        shares = {
            "engine_share": _ratio(lines, eager, same_engine),
            "method_share": _ratio(lines, same_engine, line),
            "total": _ratio(lines, eager, line),
        }
        known = [with_interval(name, ratio.value, ratio.interval) for name, ratio in shares.items() if ratio]
        rows.append(row | {name: value for each in known for name, value in each.items()})
    return rows
