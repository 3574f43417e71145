"""`gate.json`: what a gate found, line by line and as a whole.

Codes, by check
outcome    measured, as-before, fixed; newly-oom, newly-timeout, newly-error, newly-skipped (worse than the
           reference); oom, timeout, error, skipped (nothing to hold against a floor); missing, renamed
floor      above-floor; below-floor; floor-unclear
reference  no-loss; speed-lost; unclear, loss-among-many (alone a loss, among so many comparisons perhaps chance)
both       one-block (no interval), load (too different to compare), no-ratio (e2e was not measured)
memory     memory-held; memory-grown; memory-unknown
Any of them is `canary` where the environment is not trusted.
"""

from pathlib import Path
from typing import Final, Literal

from bench.results.files import Strict, read_whole
from bench.results.identity import AxisValue

GATE_FILE: Final = "gate.json"
SCHEMA_VERSION: Final = 1

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Code = Literal["passed", "regression", "inconclusive", "untrusted", "nothing-measured"]
WORST_FIRST: tuple[Verdict, ...] = ("FAIL", "INCONCLUSIVE", "PASS")


class Check(Strict):
    """One thing that a line is held to."""

    name: Literal["outcome", "floor", "reference", "memory"]
    verdict: Verdict
    code: str
    reason: str
    """A sentence without its full stop."""
    now: float | None = None
    """Of a speed-up or bytes."""
    then: float | None = None
    """The floor, or the reference's speed-up or bytes."""
    change: float | None = None
    """Relative: -0.1 is a tenth less."""
    change_low: float | None = None
    change_high: float | None = None
    p_fail: float | None = None
    """Of the loss, after Holm's adjustment over all of the gate's comparisons."""


class LineVerdict(Strict):
    """A gated line. Its verdict is the worst of its checks, its code and reason are that check's."""

    case_title: str
    label: str
    case: dict[str, AxisValue] = {}
    speed_up: float | None = None
    speed_up_low: float | None = None
    speed_up_high: float | None = None
    blocks: int = 0
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...]

    @property
    def deciding(self) -> Check:
        """The worst of the checks; of several, one that says more than how the line ended."""
        return min(self.checks, key=lambda check: (WORST_FIRST.index(check.verdict), check.name == "outcome"))

    @property
    def verdict(self) -> Verdict:
        """The worst of its checks'."""
        return self.deciding.verdict

    @property
    def title(self) -> str:
        """Case and method in one line."""
        return f"{self.case_title} · {self.label}"


class CanaryVerdict(Strict):
    """e2e against itself, all cases as one."""

    ratio: float
    low: float | None
    high: float | None
    limit: float
    cases: int
    blocks: int
    trusted: bool

    @property
    def in_words(self) -> str:
        """`1.002 (0.998 to 1.006)`."""
        return f"{self.ratio:.3f}" + ("" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})")


class HeldAgainst(Strict):
    """The reference."""

    run_id: str
    measured_at: str
    device: str


class GateReport(Strict):
    """`gate.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    device: str
    verdict: Verdict
    code: Code
    reason: str
    exit_code: int
    strict: bool = False
    reference: HeldAgainst | None = None
    tolerance: float
    tolerance_reason: str
    canary: CanaryVerdict | None = None
    notes: tuple[str, ...] = ()
    records: int
    """Of the run, when it was judged."""
    lines: tuple[LineVerdict, ...]

    def of(self, verdict: Verdict) -> tuple[LineVerdict, ...]:
        """The lines with this verdict."""
        return tuple(line for line in self.lines if line.verdict == verdict)


def read(run_dir: Path) -> GateReport | None:
    """The verdicts of a run that was gated, None of one that was not; raises ResultsError where they are damaged."""
    path = run_dir / GATE_FILE
    return read_whole(path, GateReport, "a gate's verdicts", "gate the run again") if path.exists() else None
