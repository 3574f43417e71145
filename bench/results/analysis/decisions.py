"""From two estimates to their difference, and from all differences of a run to verdicts. Pure, on ln ratios.

`tests/bench/running/test_protocol_simulation.py` holds the verdicts' error rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import stdtr, stdtrit

from bench.results.analysis import drift
from bench.results.analysis.stats import LEVEL, Estimate

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Difference:
    """How far one ratio lies above another, in ln, with the errors of both (Welch); None where one error is unknown.

    loads: where the processor's load moved, what it was; without an error the runs' loads lie too far apart.
    """

    log_difference: float
    standard_error: float | None
    degrees_of_freedom: float | None
    low: float | None
    high: float | None
    loads: str = ""

    def p_below(self, bound: float) -> float:
        """How likely a value this low would be if the true difference were `bound`; small: it lies below."""
        return self._tail(self.log_difference - bound)

    def p_above(self, bound: float) -> float:
        """How likely a value this high would be if the true difference were `bound`; small: it lies above."""
        return self._tail(bound - self.log_difference)

    def _tail(self, distance: float) -> float:
        if self.standard_error is None or self.degrees_of_freedom is None:
            return 1.0
        if self.standard_error == 0:
            return 0.0 if distance < 0 else 1.0
        return float(stdtr(self.degrees_of_freedom, distance / self.standard_error))


def difference(now: Estimate, reference: Estimate) -> Difference:
    """`now` against an earlier estimate that has an error of its own: Welch's t, at one load where the load moved."""
    log = now.log_ratio - reference.log_ratio
    if now.standard_error is None or reference.standard_error is None:
        return Difference(log, None, None, None, None)
    if now.load is not None and reference.load is not None and drift.moved(now.load, reference.load):
        loads = f"load was {now.load} tasks per core now, {reference.load} in the reference"
        at_one_load = drift.at_one_load(now.load, reference.load, log)
        if at_one_load is None:
            return Difference(log, None, None, None, None, loads)
        return replace(_difference(*at_one_load), loads=loads)
    ours, theirs = now.standard_error**2, reference.standard_error**2
    weights = ours**2 / (now.blocks - 1) + theirs**2 / (reference.blocks - 1)
    degrees = (ours + theirs) ** 2 / weights if weights > 0 else float(now.blocks + reference.blocks - 2)
    return _difference(log, math.sqrt(ours + theirs), degrees)


def above_floor(now: Estimate, floor: float) -> Difference:
    """`now` against a speed-up that is promised, which has no error."""
    log = now.log_ratio - math.log(floor)
    if now.standard_error is None:
        return Difference(log, None, None, None, None)
    return _difference(log, now.standard_error, now.blocks - 1.0)


def _difference(log: float, error: float, degrees: float) -> Difference:
    half = error * float(stdtrit(degrees, 1 - LEVEL))
    return Difference(log, error, degrees, log - half, log + half)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment, in the order given: reject where the result is <= the level of the whole family."""
    amount = len(p_values)
    adjusted = [0.0] * amount
    reached = 0.0
    for rank, place in enumerate(sorted(range(amount), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (amount - rank) * p_values[place]))
        adjusted[place] = reached
    return tuple(adjusted)


@dataclass(frozen=True)
class Decision:
    """A verdict on one of several differences. p_alone, p_fail: of its loss, by itself and as one of so many."""

    verdict: Verdict
    p_alone: float
    p_fail: float


def decide(differences: Sequence[tuple[Difference, float]], *, level: float = LEVEL) -> tuple[Decision, ...]:
    """Verdicts on all differences of a run, each with the part that may be lost: its tolerance.

    FAIL: surely lost more than the tolerance; PASS: surely did not; else INCONCLUSIVE. The losses are one family of
    tests (Holm). PASS needs no adjustment: a run passes when every case does, and each alone errs at `level` at most.
    """
    bounds = [math.log1p(-tolerance) for _, tolerance in differences]
    alone = [each.p_below(bound) for (each, _), bound in zip(differences, bounds, strict=True)]
    decided = []
    for (each, _), bound, p_alone, p_fail in zip(differences, bounds, alone, holm(alone), strict=True):
        held: Verdict = "pass" if each.p_above(bound) <= level else "inconclusive"
        decided.append(Decision("fail" if p_fail <= level else held, p_alone, p_fail))
    return tuple(decided)
