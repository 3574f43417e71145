"""From block values to a speed-up with its interval, and when there are enough of them. Pure, on ln ratios.

A block is one set of fresh processes; its value y is the median over rounds of ln(t_reference / t_method). What one
process shares with itself (memory layout, clocks, the neighbours of that minute) is the same in all of its samples,
so samples are no independent evidence and blocks are: the interval is Student's t over block values, on blocks - 1
degrees of freedom, wider where blocks are none either (`bench.results.analysis.drift`).
`tests/bench/running/test_protocol_simulation.py` holds its coverage.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, median
from typing import Final

from scipy.special import stdtr, stdtrit

from bench.results.analysis import drift
from bench.results.analysis.drift import Load
from bench.results.schema import Record, RunInfo

REFERENCE: Final = "e2e"
"""Every item slot through the encoder: what a method's speed-up is measured against."""

LEAST_BLOCKS: Final = 6
MOST_BLOCKS: Final = 20
HALF_WIDTH: Final = 0.015
"""The relative half-width of a speed-up's interval at which measuring stops."""
LEVEL: Final = 0.025
"""Of one side of a 95 % interval: at most this often is a fine run called FAIL, or one loss PASS."""
EXTRA_BLOCKS: Final = 3
FAR: Final = 0.6
"""The part of the half-width asked for, below which the least number of blocks will do."""
CANARY_LIMITS: Final = {"cuda": 0.01, "cpu": 0.03}
"""How far e2e may lie from itself, by kind of device; a processor is shared with whatever else runs there."""

DISAGREEMENT: Final = 0.75
"""Standard errors between mean and Hodges-Lehmann estimate that are worth a note: of normal values 1 % lie so far
apart, while one block far off pulls the mean by almost a whole standard error."""
MOST_PAIRED: Final = 200
NEGLIGIBLE: Final = 0.001
"""Relative differences below this are not worth a note."""
NOTE_LEVEL: Final = 0.01
"""How often steady blocks may be called outlying, or drifting."""

_MEDIAN_OVER_MEAN: Final = math.sqrt(math.pi / 2)
"""The standard error of a median of normal values, in that of their mean."""


@dataclass(frozen=True)
class Estimate:
    """A ratio over blocks, in ln; with one block there is a value and nothing known of its error.

    standard_error: of `log_ratio`, the mean over blocks. low, high: its t interval. hodges_lehmann: the median of all
    pairwise means, which a few odd blocks barely move. notes: what a reader should know of the blocks. load: how their
    values go with the processor's load; None where it was not read.
    """

    log_ratio: float
    standard_error: float | None
    blocks: int
    low: float | None
    high: float | None
    hodges_lehmann: float
    notes: tuple[str, ...] = ()
    load: Load | None = None

    @property
    def value(self) -> float:
        """The ratio itself: 2.0 is twice as fast."""
        return math.exp(self.log_ratio)

    @property
    def half_width(self) -> float | None:
        """Half the interval, relative: 0.015 is 1.5 %."""
        return None if self.low is None or self.high is None else math.expm1((self.high - self.low) / 2)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the ratio itself."""
        return None if self.low is None or self.high is None else (math.exp(self.low), math.exp(self.high))


def block_values(reference: Sequence[Record], method: Sequence[Record]) -> dict[int, float]:
    """Block -> ln(t_reference / t_method), for the blocks that both sides measured; the lists hold one line each.

    Interleaved blocks are compared round by round, in the rounds that both kept; others by their medians.
    """
    own = {record.block: record for record in method if _measured(record)}
    values = {}
    for record in reference:
        if _measured(record) and record.block in own:
            value = _block_value(record, own[record.block])
            if value is not None:
                values[record.block] = value
    return dict(sorted(values.items()))


def compared(reference: Sequence[Record], method: Sequence[Record]) -> Estimate | None:
    """The speed-up of one line over another, whose records these are; None where they share no measured block."""
    values = block_values(reference, method)
    return over_blocks(list(values.values()), block_loads(reference, method)) if values else None


def block_loads(reference: Sequence[Record], method: Sequence[Record]) -> list[float | None]:
    """Others' tasks per core while the blocks of `block_values` were measured, the mean of both lines."""
    loads: list[dict[int, float | None]] = [
        {record.block: None if record.telemetry is None else record.telemetry.load for record in records}
        for records in (reference, method)
    ]
    pairs = [(loads[0][block], loads[1][block]) for block in block_values(reference, method)]
    return [None if theirs is None or ours is None else (theirs + ours) / 2 for theirs, ours in pairs]


def _measured(record: Record) -> bool:
    return record.outcome == "ok" and bool(record.samples_s) and min(record.samples_s) > 0


def _block_value(reference: Record, method: Record) -> float | None:
    if reference.schedule != "interleaved" or method.schedule != "interleaved":
        return math.log(median(reference.samples_s) / median(method.samples_s))
    theirs, ours = _rounds(reference), _rounds(method)
    common = theirs.keys() & ours.keys()
    return median(theirs[each] - ours[each] for each in common) if common else None


def _rounds(record: Record) -> dict[int, float]:
    """Round -> ln of its time; where a round holds several samples (ABBA), the mean of their logarithms."""
    logs: dict[int, list[float]] = {}
    for place, seconds in zip(record.rounds, record.samples_s, strict=True):
        logs.setdefault(place, []).append(math.log(seconds))
    return {place: fmean(each) for place, each in logs.items()}


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean of block values with its Student-t interval; raises ValueError where there is no finite value."""
    amount = len(values)
    if not amount or not all(map(math.isfinite, values)):
        raise ValueError(f"an estimate needs finite block values, not {list(values)}")
    robust = hodges_lehmann(values)
    if amount == 1:
        return Estimate(values[0], None, 1, None, None, robust, ("one block: its error is not known",))
    centre, error, half = _mean(values, confidence)
    notes = (*_disagreement(centre, robust, error), *_outlier(values, centre, error), *_drift(values, centre))
    return Estimate(centre, error, amount, centre - half, centre + half, robust, notes)


def over_blocks(values: Sequence[float], loads: Sequence[float | None] = (), confidence: float = 0.95) -> Estimate:
    """`estimate` of blocks in their order, whose interval knows what moved meanwhile; loads: others' tasks per core."""
    found = estimate(values, confidence)
    if found.standard_error is None:
        return found
    load = drift.fit(values, loads)
    plain = found.standard_error**2
    if load is not None and drift.moved(load):
        variance, note = load.variance, f"load was {load} tasks per core, and the interval covers what that does"
    else:
        variance = plain * found.blocks / drift.effective_blocks(values)
        note = "neighbouring blocks are alike, so that the interval is one block's"
    if variance <= plain:
        return replace(found, load=load)
    error = math.sqrt(variance)
    half = error * _quantile(found.blocks - 1, (1 + confidence) / 2)
    low, high = found.log_ratio - half, found.log_ratio + half
    return replace(found, standard_error=error, low=low, high=high, notes=(*found.notes, note), load=load)


def _mean(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Mean, its standard error, and half its t interval."""
    amount = len(values)
    centre = math.fsum(values) / amount
    error = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (amount - 1) / amount)
    return centre, error, error * _quantile(amount - 1, (1 + confidence) / 2)


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean and its 95 % interval by Student's t; None where one value tells nothing of its error."""
    if len(values) < 2:
        return values[0], None, None
    centre, _, half = _mean(values, 0.95)
    return centre, centre - half, centre + half


def middle(values: Iterable[float | None]) -> float | None:
    """The median of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


@cache
def _quantile(degrees: int, probability: float) -> float:
    return float(stdtrit(degrees, probability))


def scatter(windows: Sequence[float]) -> float | None:
    """Half the 95 % interval of the median of one process's windows, relative; None where one window tells nothing.

    How far another process would come out is not in it, so that it is the least that a time of one process may be off.
    """
    logs = [math.log(seconds) for seconds in windows if seconds > 0]
    if len(logs) < 2:
        return None
    return math.expm1(_MEDIAN_OVER_MEAN * _mean(logs, 0.95)[2])


def hodges_lehmann(values: Sequence[float]) -> float:
    """The median of the means of all pairs, each value with itself among them; raises ValueError for no values.

    Of very many values, those of evenly spaced ranks represent all: pairs grow with the square.
    """
    if len(values) > MOST_PAIRED:
        ordered = sorted(values)
        values = [ordered[(2 * rank + 1) * len(values) // (2 * MOST_PAIRED)] for rank in range(MOST_PAIRED)]
    if not values:
        raise ValueError("a Hodges-Lehmann estimate needs values")
    return median((a + b) / 2 for place, a in enumerate(values) for b in values[place:])


def _disagreement(centre: float, robust: float, error: float) -> tuple[str, ...]:
    gap = robust - centre
    if abs(gap) <= max(DISAGREEMENT * error, NEGLIGIBLE):
        return ()
    return (f"the Hodges-Lehmann estimate lies {_relative(gap)} from the mean: a few blocks pull the mean",)


def _outlier(values: Sequence[float], centre: float, error: float) -> tuple[str, ...]:
    """Grubbs' test: the block farthest from the mean, against what the farthest of as many normal values does."""
    amount = len(values)
    farthest = max(range(amount), key=lambda place: abs(values[place] - centre))
    others = math.fsum(value for place, value in enumerate(values) if place != farthest) / (amount - 1)
    apart = values[farthest] - others
    if amount < 4 or abs(apart) <= NEGLIGIBLE:
        return ()
    # Its distance from the others' mean, in their standard deviation, is t on n - 2 degrees of freedom.
    left = (amount - 1) * amount * error**2 - (values[farthest] - centre) ** 2 * amount / (amount - 1)
    spread = math.sqrt(max(left, 0.0) / (amount - 2) * amount / (amount - 1))
    chance = amount * 2 * float(stdtr(amount - 2, -abs(apart) / spread)) if spread > 0 else 0.0
    if chance > NOTE_LEVEL:
        return ()
    return (f"block {farthest + 1} of {amount} is apart, {_relative(apart)} from the others",)


def _drift(values: Sequence[float], centre: float) -> tuple[str, ...]:
    """A straight line over the blocks in their order: does its slope differ from none?"""
    amount = len(values)
    if amount < 4:
        return ()
    middle = (amount - 1) / 2
    width = math.fsum((place - middle) ** 2 for place in range(amount))
    slope = math.fsum((place - middle) * (value - centre) for place, value in enumerate(values)) / width
    total = slope * (amount - 1)
    if abs(total) <= NEGLIGIBLE:
        return ()
    left = math.fsum((value - centre - slope * (place - middle)) ** 2 for place, value in enumerate(values))
    error = math.sqrt(left / (amount - 2) / width)
    chance = 2 * float(stdtr(amount - 2, -abs(slope) / error)) if error > 0 else 0.0
    return (f"the ratio drifts, {_relative(total)} from first to last block",) if chance <= NOTE_LEVEL else ()


def _relative(log: float) -> str:
    return f"{100 * math.expm1(log):+.1f} %"


def enough(
    values: Sequence[float],
    loads: Sequence[float | None] = (),
    *,
    half_width: float = HALF_WIDTH,
    least: int = LEAST_BLOCKS,
    most: int = MOST_BLOCKS,
) -> bool:
    """Whether to stop measuring: by precision alone. To stop once a difference is significant would invent some.

    Blocks whose spread happens to be small end a measurement early and get too narrow an interval (a nominal 95 %
    covers 92.7 % at worst). So unless the first `least` blocks are far more precise than asked, `EXTRA_BLOCKS` follow
    the block at which the precision was first reached (93.6 %). loads: others' tasks per core; where they moved, the
    interval that covers them must be as narrow as well.
    """
    least = max(least, 2)
    if len(values) >= most:
        return True
    load = drift.fit(values, loads)
    if load is not None and drift.moved(load):
        width = over_blocks(values, loads).half_width
        if width is None or width > half_width:
            return False
    mean = squares = 0.0
    for amount, value in enumerate(values, start=1):
        step = value - mean
        mean += step / amount
        squares += step * (value - mean)
        if amount < least:
            continue
        half = math.expm1(math.sqrt(squares / (amount - 1) / amount) * _quantile(amount - 1, 0.975))
        if half <= half_width:
            return len(values) >= amount + EXTRA_BLOCKS or (amount == least and half <= FAR * half_width)
    return False


@dataclass(frozen=True)
class Trust:
    """What the A/A canary says of the environment: e2e against itself must lie within the limit of 1.

    trusted: the whole interval does; False also where one block leaves it unknown. cases: how many had a canary.
    """

    canary: Estimate
    limit: float
    cases: int
    trusted: bool


def canary(records: Iterable[Record]) -> Estimate | None:
    """e2e against its replica in one case; None where the case has none."""
    values = _canary_values(records)
    return estimate(values) if values else None


def canary_limit(info: RunInfo, setting: object = None) -> float:
    """How far e2e may lie from itself in a run: as set (None: in the run's own `gate.canary_limit`), else by device."""
    asked = info.config.get("gate", {}).get("canary_limit") if setting is None else setting
    return float(asked) if isinstance(asked, int | float) else CANARY_LIMITS[info.environment.device_kind]


def trust(records: Iterable[Record], limit: float) -> Trust | None:
    """The canaries of a whole run as one: whatever the case, e2e over e2e is 1, so all their blocks say the same."""
    cases: dict[object, list[Record]] = {}
    for record in records:
        if record.method == REFERENCE:
            cases.setdefault(tuple(sorted(record.case.items())), []).append(record)
    found = [values for values in map(_canary_values, cases.values()) if values]
    if not found:
        return None
    joined = estimate([value for values in found for value in values])
    inside = (
        joined.low is not None
        and joined.high is not None
        and joined.low >= math.log1p(-limit)
        and joined.high <= math.log1p(limit)
    )
    return Trust(joined, limit, len(found), inside)


def _canary_values(records: Iterable[Record]) -> list[float]:
    """Block values of e2e against its replica, engine by engine and setting by setting."""
    lines: dict[object, tuple[list[Record], list[Record]]] = {}
    for record in records:
        if record.method == REFERENCE:
            key = (record.engine, record.dropout, record.padding, record.optimizer)
            lines.setdefault(key, ([], []))[1 if record.replica else 0].append(record)
    return [value for first, second in lines.values() for value in block_values(first, second).values()]
