"""`plan.json`: what `gram-bench plan` foresees of each method at each batch size, and what it recommends.

Loads without torch. Every interval holds 90 % of what is measured, as far as the calibration's own errors tell.
"""

from pathlib import Path
from typing import Any, Literal

from bench.results.files import Strict, read_whole
from bench.results.identity import label
from bench.results.schema import CaseAxes, Exactness

PLAN_FILE = "plan.json"


class Interval(Strict):
    """A value, and what holds 90 % of what is measured."""

    value: float
    low: float
    high: float


class Count(Strict):
    """A mean over batches. error: its standard error, 0 where an epoch was counted whole; spread: between batches."""

    mean: float
    error: float
    spread: float


class BatchCounts(Strict):
    """What the log puts into a batch of so many users, or into an interval of `steps` of them. groups: how many were
    counted; 0 where it is extrapolated."""

    batch_size: int
    steps: int
    item_slots: Count
    unique_items: Count
    real_tokens: Count
    """Of every slot."""
    unique_tokens: Count
    squared_lengths: Count
    """Of every slot's text."""
    padded_tokens: float
    """Of every slot, where each text is padded."""
    groups: int

    @property
    def item_repetition_ratio(self) -> float:
        """Slots per unique item."""
        return self.item_slots.mean / self.unique_items.mean if self.unique_items.mean else 1.0


class ForecastLine(Strict):
    """A method on an engine at a batch size. asked_steps: its accumulation steps as asked for, None where it has none;
    steps: as a number. speed_up: users per second over e2e's at the same batch size on the same engine."""

    method: str
    engine: str
    tier: str
    asked_steps: int | str | None
    steps: int
    exactness: Exactness
    batch_size: int
    step_s: Interval
    epoch_s: Interval | None
    users_per_s: Interval
    speed_up: Interval
    peak_bytes: Interval
    fits: bool
    limit: Literal["device", "host"]
    """What a step waits for."""

    @property
    def label(self) -> str:
        """`multi_step N=16`, say."""
        return label(self.method, self.asked_steps)


class LargestBatch(Strict):
    """The most users whose peak, its upper end, is within the limit; None where not even one's is."""

    label: str
    engine: str
    batch_size: int | None


class CoefficientsUsed(Strict):
    """Which calibration an engine's lines come from."""

    engine: str
    tier: str
    machine: str
    own: bool
    origin: str
    measured_at: str
    log_sd: float
    notes: tuple[str, ...]


class Forecast(Strict):
    """`plan.json`."""

    schema_version: Literal[1] = 1
    case: CaseAxes
    """The user's point."""
    device: str
    device_kind: Literal["cpu", "cuda"]
    command: tuple[str, ...]
    made_at: str
    encoder: str
    users_read: int
    whole_epoch: bool
    """Whether every user of an epoch was read, so that counts have no error."""
    steps_per_epoch: int | None
    memory_limit_bytes: float
    counts: tuple[BatchCounts, ...]
    lines: tuple[ForecastLine, ...]
    largest: tuple[LargestBatch, ...]
    coefficients: tuple[CoefficientsUsed, ...]
    gains: bool
    recommendation: str
    recommended: ForecastLine | None
    left_out: tuple[str, ...] = ()
    config: dict[str, Any] = {}


def read(path: Path) -> Forecast:
    """A plan.json; raises ResultsError where it is none."""
    return read_whole(path, Forecast, "a plan", "`gram-bench plan` makes one")
