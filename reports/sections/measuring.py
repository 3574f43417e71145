"""How it was measured: what the harness cost besides its measurements, and what the device did meanwhile."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from bench.results.analysis import stats
from bench.results.analysis.summary import Frames
from bench.results.identity import Line
from bench.results.schema import POWER_CAP, Record, Telemetry
from bench.results.store import LoadedRun
from reports import numbers, words
from reports.document import Section
from reports.table import Cell, Column, grouped, text

PLACE = 90

HARMLESS_RATE = 1e-6
"""Learning rate at which hundreds of steps of an adaptive optimizer leave a model's losses what they were."""
LIMIT = 200
"""Lines that the table shows."""


def _overhead(records: Iterable[Record]) -> list[float]:
    return [record.overhead_s for record in records if record.overhead_s is not None]


def _dropped(records: Sequence[Record]) -> Cell:
    dropped = Counter(reason.partition(": ")[2] or reason for record in records for reason in record.dropped_rounds)
    reasons = words.listing(f"{count}{numbers.TIMES} {reason}" for reason, count in dropped.items())
    return Cell(reasons, "bad" if dropped else "")


def _kept(records: Sequence[Record]) -> str:
    kept = sum(len(record.rounds) for record in records)
    return numbers.number(kept, 1) if kept else numbers.MISSING


def _method(records: Sequence[Record]) -> Cell:
    return Cell(f"{records[0].label} (canary)" if records[0].replica else records[0].label, "strong")


def _reading(
    joined: Callable[[list[Any]], Any], of: Callable[[Telemetry], Any], digits: int = 3
) -> Callable[[Sequence[Record]], str]:
    """What the readings of a line's blocks come to, as far as they tell."""

    def cell(records: Sequence[Record]) -> str:
        known = [value for each in records if each.telemetry and (value := of(each.telemetry)) is not None]
        return numbers.number(joined(known) if known else None, digits)

    return cell


def _held_back(records: Sequence[Record]) -> str:
    reasons = {reason for each in records if each.telemetry for reason in each.telemetry.throttle_reasons or ()}
    return words.listing(reason.replace("_", " ") for reason in sorted(reasons))


def _foreign(records: Sequence[Record]) -> str:
    most = max((each.telemetry.foreign_processes or 0 for each in records if each.telemetry), default=0)
    return numbers.number(most, 1) if most else ""


def _load(records: Sequence[Record]) -> str:
    """Least and most, to a tenth."""
    known = [each.telemetry.load for each in records if each.telemetry and each.telemetry.load is not None]
    if not known:
        return numbers.MISSING
    low, high = f"{min(known):.1f}", f"{max(known):.1f}"
    return low if low == high else f"{low} to {high}"


COLUMNS = (
    text("Method", _method),
    Column("Harness", lambda records: numbers.number(stats.middle(_overhead(records))), "s per process"),
    Column("Rounds kept", _kept),
    text("Rounds dropped", _dropped),
    Column("SM clock", _reading(median, lambda each: each.sm_clock_mhz and each.sm_clock_mhz.median, 4), "MHz"),
    Column("Power", _reading(median, lambda each: each.power_w), "W"),
    Column("Hottest", _reading(max, lambda each: each.temperature_c, 2), "°C"),
    Column("Energy", _reading(median, lambda each: each.energy_per_1000_interactions_j), "J per 1,000 interactions"),
    text("Clock held back by", _held_back),
    Column("Other processes", _foreign),
    Column("Load", _load, "others' tasks per core"),
)


def make(run: LoadedRun, derived: Frames) -> Section | None:
    """None where no record tells of its cost or of a device."""
    measured = [record for record in run.records if record.overhead_s is not None or record.telemetry is not None]
    if not measured:
        return None
    found: dict[tuple[Line, int], list[Record]] = {}  # the canary's second process is a line of its own
    for record in run.records:
        found.setdefault((record.line, record.replica), []).append(record)
    table = grouped(COLUMNS, found.values(), LIMIT, lambda records: words.case(words.row_of(records[0])))
    table = table.without_empty(*(column.label for column in COLUMNS))  # a processor has no clock of a GPU
    return Section("measuring", "How it was measured", tuple(_notes(measured, _rate(run))), (table,), "Measuring")


def _rate(run: LoadedRun) -> float | None:
    """By which measured steps moved the weights; runs of format version 1 and some of 2 knew one rate for all."""
    settings = run.info.config.get("run", {})
    found: float | None = settings.get("measured_learning_rate", settings.get("learning_rate"))
    return found


def _notes(measured: Sequence[Record], rate: float | None) -> list[str]:
    overhead = _overhead(measured)
    notes = []
    if overhead:
        notes.append(
            "Harness: what a process cost besides its set-up, its warm-up and its measured windows (starting, making "
            f"batches, counting, ending): {numbers.number(median(overhead))} s in the median, "
            f"{numbers.number(max(overhead))} s at most."
        )
    notes += _ratio_basis(measured)
    seen = [record.telemetry for record in measured if record.telemetry is not None]
    if any(each.model_dump(exclude_none=True, exclude={"load"}) for each in seen):
        notes.append(
            "The rest is the driver's word, read next to the worker during its measured windows. A round in which the "
            "device slowed down for its own protection is dropped for every method of the block. A clock held back by "
            "the power cap is not: a GPU that works is at its cap, and what a method's power makes of the clock is "
            "part of its speed. Energy is for information: nothing is judged by it, and where the counter's changes do "
            "not tell it to 3 % there is none."
        )
    if any(each.load is not None for each in seen):
        notes.append(
            "Load: tasks of others that ran or waited for a core during the measured windows, from the least to the "
            "most of the blocks. Where it moved, intervals cover what that does to a speed-up."
        )
    lead_ins = sorted({record.detail.lead_in_s for record in measured if record.detail.lead_in_s})
    if lead_ins:
        notes.append(
            "The device was at its power cap, so each window follows untimed steps of the same process, for "
            f"{words.listing(numbers.number(each, 1) for each in lead_ins)} s: the clock is then the method's own, "
            "whatever ran before."
        )
    if rate is not None and any(POWER_CAP in (each.throttle_reasons or ()) for each in seen):
        notes.append(
            f"Measured steps moved the weights at a rate of {rate:g}"
            + (
                ", which leaves the model what it was: one that learned the timed batches by heart would draw less "
                "power, and be faster at the cap."
                if rate <= HARMLESS_RATE
                else " on few batches: a model that has learned these by heart draws less power, and at the cap is up "
                "to 7 % faster, after a number of steps that differs from method to method."
            )
        )
    return notes


def _ratio_basis(measured: Sequence[Record]) -> list[str]:
    """Of how many batches repetition ratios are, and how well they are known by them."""
    counted = [record.detail.ratio_batches for record in measured if record.detail.ratio_batches]
    error = max((record.detail.ratio_relative_error or 0.0 for record in measured), default=0.0)
    if not counted:
        return []
    fewest, most = min(counted), max(counted)
    batches = numbers.count(most, "batch", "batches") if fewest == most else f"{fewest} to {most} batches"
    return [
        f"Repetition ratios are counted on {batches} of each case's log, whatever number of them was timed; their "
        f"relative standard error is at most {numbers.percent(error) if error else '0 %'}."
    ]
