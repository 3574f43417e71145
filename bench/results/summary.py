"""Derived numbers as pandas frames: everything that a report prints and that no record stores.

A comparison pairs two rows only where they share the case (its axes, precision among them), engine, dropout, padding
and optimizer. It is made block by block, since a block's processes ran next to each other in time, and the blocks'
values give the ratio its interval (bench.results.stats); with one block there is a ratio and no interval.
Rows that were not measured stay, with outcome and reason; their numbers are missing, never zero. The canary's second
e2e process is no row: it shows in the columns canary, canary_low and canary_high of its case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from bench.results import stats
from bench.results.schema import Record
from bench.results.stats import REFERENCE

UNIQUE_REFERENCE = "e2e_unique"
"""Autograd over unique items: what plain deduplication gives without GRAM."""
SINGLE_STEP = "single_step"
"""What every other method is held against beside the references: exact, and ours."""
FIRST_ENGINE = "eager"

AXES = (
    "workload",
    "encoder",
    "layers",
    "batch_size",
    "history_length",
    "text_length",
    "asked_repetition_ratio",
    "precision",
    "cf_module",
    "world_size",
    "deduplicate",
    "adapter",
)
"""A case's axes as columns; the ratio asked for is renamed, so that the plain name is the realised one."""
SETTING = ("engine", "dropout", "padding", "optimizer")
"""What two rows must share, next to the axes, before they are compared."""
LINE = ("method", "accumulation_steps")

_COUNTS = (
    "users",
    "item_slots",
    "unique_items",
    "item_repetition_ratio",
    "interval_unique_items",
    "interval_repetition_ratio",
    "real_tokens",
    "encoded_tokens",
    "padded_tokens",
    "useful_flops",
    "matrix_flops_per_s",
    "setup_s",
    "host_wait_s",
    "cf_step_s",
    "communication_s",
    "ranks_unique_items",
    "warmup_steps",
)
_RATES = ("users_per_s", "item_slots_per_s", "real_tokens_per_s")
_PEAKS = ("allocated_bytes", "reserved_bytes", "process_bytes")
_MEDIANS = (*_COUNTS, "mfu", *_RATES, *_PEAKS, "loss_first", "loss_last")
_COMPARED = (
    "speed_up",
    "speed_up_low",
    "speed_up_high",
    "speed_up_half_width",
    "speed_up_scatter",
    "speed_up_blocks",
    "speed_up_hodges_lehmann",
    "speed_up_notes",
    "speed_up_unique",
    "speed_up_unique_low",
    "speed_up_unique_high",
    "against_single_step",
    "against_single_step_low",
    "against_single_step_high",
    "memory_ratio",
    "canary",
    "canary_low",
    "canary_high",
)
_IDENTITY = (*AXES, *SETTING, *LINE, "label", "exactness", "weights", "log")

RECORD_COLUMNS = (*_IDENTITY, "block", "seed", "outcome", "reason", "samples", "median_s", "scatter", *_MEDIANS)
SUMMARY_COLUMNS = (
    *_IDENTITY,
    "outcome",
    "reason",
    "blocks",
    "ok_blocks",
    "samples",
    "median_s",
    "min_s",
    "max_s",
    "scatter",
    *_COMPARED,
    "reference_outcome",
    "unique_reference_outcome",
    "single_step_outcome",
    *_MEDIANS,
    "memory_bytes",
    "memory_kind",
)
ENGINE_COLUMNS = (
    *AXES,
    *SETTING,
    *LINE,
    "label",
    "weights",
    "log",
    *(f"{share}{end}" for share in ("engine_share", "method_share", "total") for end in ("", "_low", "_high")),
    "median_s",
    "scatter",
)
_TEXT = {
    *_IDENTITY,
    "outcome",
    "reason",
    "speed_up_notes",
    "reference_outcome",
    "unique_reference_outcome",
    "single_step_outcome",
    "memory_kind",
}

Row = dict[str, Any]
_Lines = dict[tuple[Any, ...], list[Record]]
"""(case and setting, method, accumulation steps) -> its records."""


@dataclass(frozen=True)
class Frames:
    """Three views of one run; axes keep their own types, numbers are floats, NaN where there is none.

    records: one row per record (RECORD_COLUMNS).
    summary: one row per case x method label x engine (SUMMARY_COLUMNS), blocks joined.
    engines: one row per measured line of an engine other than `eager` (ENGINE_COLUMNS): `engine_share` = e2e eager /
    e2e of this engine, `method_share` = e2e / method inside this engine, `total` = e2e eager / method.
    """

    records: pd.DataFrame
    summary: pd.DataFrame
    engines: pd.DataFrame

    def only(self, values: Mapping[str, Any]) -> Frames:
        """The rows whose columns hold these values; None matches a missing axis."""

        def matching(frame: pd.DataFrame) -> pd.DataFrame:
            keep = pd.Series(True, index=frame.index)
            for column, value in values.items():
                keep &= frame[column].isna() if value is None else frame[column] == value
            return frame[keep]

        return Frames(matching(self.records), matching(self.summary), matching(self.engines))


def frames(records: Iterable[Record]) -> Frames:
    """All derived numbers of a run's records."""
    rows, lines, canaries = [], _Lines(), _Lines()
    for record in records:
        row = _record_row(record)
        if record.replica == 0:
            rows.append(row)
        kept = canaries if record.replica else lines
        kept.setdefault(_identity(row, (*AXES, *SETTING, *LINE)), []).append(record)
    summary = [_summary_row(line) for line in _grouped(rows, (*AXES, *SETTING, *LINE)).values()]
    _compare(summary, lines)
    _add_canaries(summary, lines, canaries)
    return Frames(
        _frame(rows, RECORD_COLUMNS),
        _frame(summary, SUMMARY_COLUMNS),
        _frame(_engines(summary, lines), ENGINE_COLUMNS),
    )


def _frame(rows: list[Row], columns: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.DataFrame([[row.get(column) for column in columns] for row in rows], columns=list(columns), dtype=object)
    numbers = {column: float for column in columns if column not in _TEXT}
    return frame.astype(numbers)


def provenance(case: Mapping[str, Any], detail: Mapping[str, Any]) -> Row:
    """weights: real or random; log: real or synthetic. As the record says; by name where it failed earlier."""
    random = str(case.get("encoder")).startswith("shape:")
    drawn = str(case.get("workload")).partition(":")[0] in ("synthetic", "shape")
    return {
        "weights": detail.get("weights") or ("random" if random else "real"),
        "log": detail.get("log") or ("synthetic" if drawn else "real"),
    }


def _record_row(record: Record) -> Row:
    case = dict(record.case)
    case["asked_repetition_ratio"] = case.pop("item_repetition_ratio", None)
    row: Row = {axis: case.get(axis) for axis in AXES}
    row |= {
        name: getattr(record, name)
        for name in (*SETTING, *LINE, "label", "exactness", "block", "seed", "outcome", "reason")
    }
    row |= {name: getattr(record, name, None) for name in _COUNTS}
    row["ranks_unique_items"] = sum(rank.unique_items or 0.0 for rank in record.ranks) or None
    row |= provenance(record.case, record.detail)
    row["samples"] = len(record.samples_s)
    row["median_s"] = median(record.samples_s) if record.outcome == "ok" and record.samples_s else None
    row["scatter"] = stats.scatter(record.samples_s) if record.outcome == "ok" else None
    row["mfu"] = utilisation(row)
    rates, loss, peaks = record.throughput_per_s, record.loss, record.peak_memory_bytes
    if rates is not None:
        row |= {
            "users_per_s": rates.users,
            "item_slots_per_s": rates.item_slots,
            "real_tokens_per_s": rates.real_tokens,
        }
    if loss is not None:
        row |= {"loss_first": loss.first, "loss_last": loss.last}
    row |= {"allocated_bytes": peaks.allocated, "reserved_bytes": peaks.reserved, "process_bytes": peaks.process}
    return row


def utilisation(row: Mapping[str, Any]) -> float | None:
    """Useful operations per second as a part of the matrix rate; None where either is unknown."""
    flops, rate, seconds = (row.get(name) for name in ("useful_flops", "matrix_flops_per_s", "median_s"))
    return flops / seconds / rate if flops is not None and rate and seconds else None


def _grouped(rows: list[Row], columns: tuple[str, ...]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def _middle(rows: list[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return median(values) if values else None


def _summary_row(line: list[Row]) -> Row:
    """Joins the blocks of one line. It is `ok` if any block is, with the first failure's reason beside it."""
    measured = [row for row in line if row["outcome"] == "ok"]
    failed = [row for row in line if row["outcome"] != "ok"]
    row: Row = {name: line[0][name] for name in _IDENTITY}
    row["outcome"] = "ok" if measured else failed[0]["outcome"]
    row["reason"] = failed[0]["reason"] if failed else None
    row["blocks"], row["ok_blocks"] = len(line), len(measured)
    row["samples"] = sum(each["samples"] for each in measured)
    times = [each["median_s"] for each in measured if each["median_s"] is not None]
    if times:
        row |= {"median_s": median(times), "min_s": min(times), "max_s": max(times)}
        row["scatter"] = stats.scatter(times) if len(times) > 1 else measured[0]["scatter"]
    row |= {name: _middle(measured or line, name) for name in _MEDIANS}
    row["mfu"] = utilisation(row)
    for kind in ("allocated", "process"):
        if measured and row[f"{kind}_bytes"] is not None:
            row |= {"memory_bytes": row[f"{kind}_bytes"], "memory_kind": kind}
            break
    return row


def _identity(row: Row, columns: tuple[str, ...] = (*AXES, *SETTING)) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns)


def _ratio(lines: _Lines, reference: tuple[Any, ...], method: tuple[Any, ...]) -> stats.Estimate | None:
    """Reference / method over the blocks that hold both; None where none does."""
    return stats.compared(lines.get(reference, ()), lines.get(method, ()))


def _compare(summary: list[Row], lines: _Lines) -> None:
    """Adds speed-ups against both references and single_step, and memory ratios, to the rows."""
    references = {(_identity(row), row["method"]): row for row in summary if row["accumulation_steps"] is None}
    for row in summary:
        own = (*_identity(row), *_identity(row, LINE))
        for method, prefix, outcome in (
            (REFERENCE, "speed_up", "reference_outcome"),
            (UNIQUE_REFERENCE, "speed_up_unique", "unique_reference_outcome"),
            (SINGLE_STEP, "against_single_step", "single_step_outcome"),
        ):
            reference = references.get((_identity(row), method))
            row[outcome] = reference["outcome"] if reference else "absent"
            ratio = _ratio(lines, (*_identity(row), method, None), own)
            if ratio is not None:
                row |= _with_interval(prefix, ratio)
                if prefix == "speed_up":
                    row |= _quality(ratio)
                    row["speed_up_scatter"] = _joined_scatter(row, reference) if ratio.blocks == 1 else None
        reference = references.get((_identity(row), REFERENCE))
        if reference and row.get("memory_kind") and row["memory_kind"] == reference.get("memory_kind"):
            row["memory_ratio"] = row["memory_bytes"] / reference["memory_bytes"] if reference["memory_bytes"] else None


def _joined_scatter(row: Row, reference: Row | None) -> float | None:
    """What the windows of both processes leave open of their ratio, relative."""
    both = [each["scatter"] for each in (row, reference) if each is not None and each["scatter"] is not None]
    return math.hypot(*both) if len(both) == 2 else None


def _with_interval(name: str, ratio: stats.Estimate) -> Row:
    low, high = ratio.interval or (None, None)
    return {name: ratio.value, f"{name}_low": low, f"{name}_high": high}


def _quality(ratio: stats.Estimate) -> Row:
    """How far a speed-up can be relied on. What the mean's notes say of one block alone, its missing interval says."""
    return {
        "speed_up_half_width": ratio.half_width,
        "speed_up_blocks": ratio.blocks,
        "speed_up_hodges_lehmann": math.exp(ratio.hodges_lehmann),
        "speed_up_notes": "; ".join(ratio.notes) if ratio.blocks > 1 else "",
    }


def _add_canaries(summary: list[Row], lines: _Lines, canaries: _Lines) -> None:
    """e2e against its own replica, beside every line of the case."""
    found = {
        identity[: -len(LINE)]: stats.canary([*lines.get(identity, ()), *replicas])
        for identity, replicas in canaries.items()
    }
    for row in summary:
        canary = found.get(_identity(row))
        if canary is not None:
            row |= _with_interval("canary", canary)


def _engines(summary: list[Row], lines: _Lines) -> list[Row]:
    """Splits what an engine and a method together gain over e2e eager."""
    rows = []
    for row in summary:
        if row["engine"] == FIRST_ENGINE or row.get("median_s") is None:
            continue
        own = (*_identity(row), *_identity(row, LINE))
        same_engine = (*_identity(row), REFERENCE, None)
        eager = (*_identity({**row, "engine": FIRST_ENGINE}), REFERENCE, None)
        shares = {
            "engine_share": _ratio(lines, eager, same_engine),
            "method_share": _ratio(lines, same_engine, own),
            "total": _ratio(lines, eager, own),
        }
        known = [_with_interval(name, ratio) for name, ratio in shares.items() if ratio is not None]
        rows.append(row | {name: value for each in known for name, value in each.items()})
    return rows
