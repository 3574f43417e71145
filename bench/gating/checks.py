"""What a single line is held to: how it ended, its speed-up against a floor and a reference, its peak memory.

Speed-ups become comparisons first, which `decided` judges together; the rest is settled at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.configuration.gate_settings import Floor
from bench.results.analysis import decisions, stats
from bench.results.analysis.lines import LineResult, input_changes
from bench.results.identity import Line
from bench.results.schema import Outcome
from bench.results.verdicts import Check, Verdict

MIB = 1024**2


@dataclass(frozen=True)
class MemoryBound:
    """How much more than the reference's peak is no growth: a share of it, and so many bytes."""

    share: float
    slack_bytes: int

    def above(self, then: float) -> float:
        """The largest peak that passes."""
        return then * (1 + self.share) + self.slack_bytes

    def __str__(self) -> str:
        return f"{self.share * 100:.0f} % + {self.slack_bytes // MIB} MiB"


MEMORY_BOUNDS = {"allocated": MemoryBound(0.01, 8 * MIB), "process": MemoryBound(0.10, 64 * MIB)}
"""By what was counted, the sharper first."""
MEMORY_NAMES = {"allocated": "allocated peak", "process": "resident peak of the process"}

_OUTCOMES: dict[Outcome, str] = {
    "ok": "was measured",
    "oom": "ran out of memory",
    "timeout": "timed out",
    "error": "failed",
    "skipped": "was skipped",
}
_SEVERITY: dict[Outcome, int] = {"ok": 0, "oom": 1, "skipped": 1, "timeout": 2, "error": 2}
"""Skipping follows from a memory that ran out; an error where memory ran out before is something new."""
_RATIO_CODES = {
    "floor": {"pass": "above-floor", "fail": "below-floor", "inconclusive": "floor-unclear"},
    "reference": {"pass": "no-loss", "fail": "speed-lost", "inconclusive": "unclear"},
}


@dataclass(frozen=True)
class Comparison:
    """A speed-up that is tested: of which line, against what, and how to say how it came out."""

    line: Line
    check: Check
    difference: decisions.Difference
    tolerance: float
    tell: Callable[[decisions.Verdict], str]


def outcome(line: LineResult, then: LineResult | None) -> Check:
    """How the line ended, against how it ended then; without a then, it must have been measured."""
    now, why = line.outcome, f": {line.reason}" if line.reason else ""
    blocks = f" in {line.failed_blocks} of {line.blocks} blocks" if line.failed_blocks < line.blocks else ""
    ended = f"{_OUTCOMES[now]}{blocks if now != 'ok' else ''}{why}"
    if then is None:
        return Check(name="outcome", verdict="PASS" if now == "ok" else "FAIL", code=_measured(now), reason=ended)
    if _SEVERITY[now] > _SEVERITY[then.outcome]:
        was = f"it {_OUTCOMES[then.outcome]} in the reference"
        return Check(name="outcome", verdict="FAIL", code=f"newly-{now}", reason=f"{ended} ({was})")
    if _SEVERITY[now] < _SEVERITY[then.outcome]:
        was = f"it {_OUTCOMES[then.outcome]} in the reference"
        return Check(name="outcome", verdict="PASS", code="fixed", reason=f"{ended}; {was}")
    code = "measured" if now == "ok" else "as-before"
    return Check(name="outcome", verdict="PASS", code=code, reason=ended + ("" if now == "ok" else ", as before"))


def _measured(outcome: Outcome) -> str:
    return "measured" if outcome == "ok" else outcome


def memory(line: LineResult, then: LineResult) -> list[Check]:
    """Peaks against the reference's, by the sharpest count that the reference has."""
    if line.outcome != "ok" or then.outcome != "ok":
        return []
    for kind, bound in MEMORY_BOUNDS.items():
        before, now = getattr(then.peak_memory_bytes, kind), getattr(line.peak_memory_bytes, kind)
        if before is None:
            continue
        name = MEMORY_NAMES[kind]
        allowed = f"the {bound} more that are allowed"
        if now is None:
            reason = f"the run does not say its {name}, which was {_bytes(before)} in the reference"
            return [Check(name="memory", verdict="INCONCLUSIVE", code="memory-unknown", reason=reason, then=before)]
        grown = now > bound.above(before)
        change = now / before - 1 if before else None
        peaks = f"{name} {_bytes(now)}, {_bytes(before)} in the reference ({percent(change)})"
        return [
            Check(
                name="memory",
                verdict="FAIL" if grown else "PASS",
                code="memory-grown" if grown else "memory-held",
                reason=f"{peaks}, {'beyond' if grown else 'within'} {allowed}",
                now=now,
                then=before,
                change=change,
            )
        ]
    return []


def against_reference(line: LineResult, then: LineResult, tolerance: float, checks: list[Check]) -> list[Comparison]:
    """The comparison with the reference's speed-up; where there is none to make, `checks` says why."""
    if then.speed_up is None:
        return []
    if line.speed_up is None:
        if line.outcome == "ok":
            reason = f"no speed-up to compare: e2e was not measured with it (then {times(then.speed_up.value)})"
            checks.append(Check(name="reference", verdict="FAIL", code="no-ratio", reason=reason))
        return []
    difference = decisions.difference(line.speed_up, then.speed_up)
    change = _change(difference)
    speeds = f"{times(line.speed_up.value)} now, {times(then.speed_up.value)} in the reference"
    allowed = f"{percent(tolerance, sign=False)} may be lost"
    if difference.loads and difference.standard_error is not None:
        speeds += f"; compared at one load, since {difference.loads}"

    def tell(verdict: decisions.Verdict) -> str:
        what = {"pass": "speed-up held", "fail": "speed-up lost", "inconclusive": "cannot tell"}
        return f"{what[verdict]}, {change}: {speeds}; {allowed}"

    check = Check(
        name="reference",
        verdict="INCONCLUSIVE",
        code="unclear",
        reason="",
        now=line.speed_up.value,
        then=then.speed_up.value,
        **_changes(difference),
    )
    return [Comparison(line.line, check, difference, tolerance, tell)]


def with_input_changes(checks: Sequence[Check], line: LineResult, then: LineResult) -> list[Check]:
    """The checks of a line, each with how its input differs from the reference's, whatever the verdict."""
    changes = input_changes(then, line, "the reference's")
    if not changes:
        return list(checks)
    said = f"; {', '.join(changes)}: the input differs"
    return [check.model_copy(update={"reason": f"{check.reason}{said}"}) for check in checks]


def against_floor(
    line: LineResult, floor: Floor, found: dict[Line, LineResult], checks: list[Check]
) -> list[Comparison]:
    """The comparison with a promised speed-up; where there is none to make, `checks` says why."""
    if line.speed_up is None:
        if line.outcome == "ok":
            e2e = found.get(Line(line.line.setting, stats.REFERENCE))
            why = f"e2e {_OUTCOMES[e2e.outcome]}" if e2e and e2e.outcome != "ok" else "e2e was not measured with it"
            reason = f"no speed-up to hold against the floor of {times(floor.at_least)}: {why}"
            checks.append(Check(name="floor", verdict="FAIL", code="no-ratio", reason=reason, then=floor.at_least))
        return []
    difference = decisions.above_floor(line.speed_up, floor.at_least)
    speed = f"{times(line.speed_up.value)}{_range(line.speed_up)}"

    def tell(verdict: decisions.Verdict) -> str:
        where = {"pass": "above", "fail": "below", "inconclusive": "too near to call at"}[verdict]
        return f"{speed} is {where} the floor of {times(floor.at_least)}"

    check = Check(
        name="floor",
        verdict="INCONCLUSIVE",
        code="floor-unclear",
        reason="",
        now=line.speed_up.value,
        then=floor.at_least,
        **_changes(difference),
    )
    return [Comparison(line.line, check, difference, 0.0, tell)]


def decided(comparisons: Sequence[Comparison]) -> list[Check]:
    """The verdicts on all speed-ups of the gate, which are one family of tests."""
    verdicts: dict[decisions.Verdict, Verdict] = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE"}
    decided = []
    found = decisions.decide([(each.difference, each.tolerance) for each in comparisons])
    for each, decision in zip(comparisons, found, strict=True):
        verdict = decision.verdict
        code, reason = _RATIO_CODES[each.check.name][verdict], each.tell(verdict)
        if each.difference.standard_error is None and each.difference.loads:
            code = "load"
            reason += f"; {each.difference.loads}, too far apart to compare"
        elif each.difference.standard_error is None:
            code = "one-block"
            reason += "; one block has no interval, measure several (run.blocks, or --preset gate)"
        elif verdict == "inconclusive" and decision.p_alone <= stats.LEVEL:
            code = "loss-among-many"
            reason += f"; by itself a loss, among {len(comparisons)} comparisons perhaps chance"
        decided.append(
            each.check.model_copy(
                update={"verdict": verdicts[verdict], "code": code, "reason": reason, "p_fail": decision.p_fail}
            )
        )
    return decided


def _changes(difference: decisions.Difference) -> dict[str, float | None]:
    ends = {"change": difference.log_difference, "change_low": difference.low, "change_high": difference.high}
    return {name: None if value is None else math.expm1(value) for name, value in ends.items()}


def _change(difference: decisions.Difference) -> str:
    """`-10.2 % (-11.4 to -8.9 %)`."""
    changes = _changes(difference)
    middle = percent(changes["change"])
    if changes["change_low"] is None or changes["change_high"] is None:
        return middle
    return f"{middle} ({100 * changes['change_low']:+.1f} to {100 * changes['change_high']:+.1f} %)"


def percent(value: float | None, *, sign: bool = True) -> str:
    """A part as `+3.1 %`; without its sign as `5 %`."""
    if value is None:
        return "unknown"
    return f"{100 * value:+.1f} %" if sign else f"{100 * value:g} %"


def times(value: float) -> str:
    """A speed-up: `3.62x`."""
    return f"{value:.3g}x"


def _range(estimate: stats.Estimate) -> str:
    interval = estimate.interval
    return "" if interval is None else f" ({interval[0]:.3g} to {times(interval[1])})"


def _bytes(value: float) -> str:
    return f"{value / MIB:.4g} MiB" if value < 1024 * MIB else f"{value / 1024 / MIB:.4g} GiB"
