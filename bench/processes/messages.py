"""What manager and worker say to each other: plain values, so that neither needs the other's imports."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.configuration.config import Config
from bench.configuration.sweep import WorkItem
from bench.results.schema import Exactness


class Job(NamedTuple):
    """What one worker is started with."""

    config: Config
    item: WorkItem
    warms_up_when_told: bool = False
    """Whether it waits for `WarmUp` once it is set up, since others are set up at the same time."""
    work_is_counted: bool = True
    """Whether a first record tells of useful work, which takes a second or two."""

    @property
    def leads(self) -> bool:
        """Whether the worker starts processes that measure, instead of measuring."""
        return self.item.case.world_size > 1


@dataclass(frozen=True)
class WarmUp:
    """The manager gives the worker its turn to warm up, and no other process computes meanwhile."""


@dataclass(frozen=True)
class TakeWindow:
    """The manager gives the worker its turn: one window, and no other process computes meanwhile.

    lead_in_s: how long to step before it, untimed, until the device runs as this worker makes it run; least_s: how long
    the window is at least.
    """

    lead_in_s: float = 0.0
    least_s: float = 0.0


@dataclass(frozen=True)
class Finish:
    """The last turn: counting and the record. kept: positions of the windows that are measurements.

    reason: why there is none, where none is kept.
    """

    kept: tuple[int, ...]
    reason: str | None = None


@dataclass(frozen=True)
class Entered:
    """The worker begins a phase; by then it knows what its method may claim."""

    phase: str
    exactness: Exactness | None = None
    step: int | None = None
    """After how many a training is there."""


@dataclass(frozen=True)
class SetUp:
    """The worker waits for `WarmUp`, since `at_s` by `time.monotonic`; what it steps with is compiled and captured."""

    at_s: float


@dataclass(frozen=True)
class Warm:
    """The worker is ready for windows and hands its turn back.

    setup_s: as a `Record` has it; warm_up_s: the rest of the warm-up's steps; spent_s: what counts against the budget.
    Said once more by a worker that ran out of memory and began anew with less: its windows so far are void.
    """

    setup_s: float
    warm_up_s: float
    spent_s: float


@dataclass(frozen=True)
class Took:
    """The worker has taken a window and hands its turn back.

    began_s, ended_s: by `time.monotonic`, which all processes share; seconds: of the timed work; discarded_s: of takes
    of the same window that were not kept; led_in_s: of the steps right before.
    """

    began_s: float
    ended_s: float
    seconds: float
    steps: int
    discarded_s: float = 0.0
    led_in_s: float = 0.0


@dataclass(frozen=True)
class Measured:
    """The worker's last word: a `Record`'s fields, of whatever outcome."""

    record: dict[str, Any]


Message = Entered | SetUp | Warm | Took | Measured
Order = WarmUp | TakeWindow | Finish
