"""What a run reports to what shows its progress: values, in the order they happen. Measuring and training alike."""

from dataclasses import dataclass
from typing import Protocol

from bench.configuration.case import Case
from bench.configuration.sweep import MethodLine
from bench.results.schema import Record, Schedule
from bench.results.training import TrainingPoint


class Item(Protocol):
    """A measurement or a training to be done."""

    @property
    def case(self) -> Case:
        """What every method is given alike."""
        ...

    @property
    def line(self) -> MethodLine:
        """The method, and how it runs."""
        ...


@dataclass(frozen=True)
class Planned:
    """Before the first worker: how many there are to do, and how many a former run has done already."""

    total: int
    recorded: int


@dataclass(frozen=True)
class Started:
    """A worker begins. number: 1 for the first one of this call, of `total`; eta_s: None before anything is known.

    earlier: the evaluations of a former call that a training goes on from.
    """

    item: Item
    number: int
    total: int
    eta_s: float | None
    earlier: tuple[TrainingPoint, ...] = ()


@dataclass(frozen=True)
class PhaseBegan:
    """The worker of `item` says where it is; step: after how many a training is there."""

    item: Item
    phase: str
    step: int | None = None


@dataclass(frozen=True)
class Finished:
    """`record` is on the disk, whatever its outcome; took_s is 0 where it was skipped without being tried.

    eta_s: time that the rest will take, going by what was measured so far.
    """

    item: Item
    record: Record | TrainingPoint
    number: int
    total: int
    took_s: float
    eta_s: float | None


@dataclass(frozen=True)
class BlockBegan:
    """A paired block begins, or what precedes it: with schedule "solo" each line runs alone, for its memory."""

    case: Case
    block: int
    schedule: Schedule


@dataclass(frozen=True)
class TookTurn:
    """The worker of `item` has taken its window of a round, between these times of `time.monotonic`."""

    item: Item
    round: int
    began_s: float
    ended_s: float


@dataclass(frozen=True)
class Extended:
    """The case is not known well enough: a block more, so that there are `total` measurements to take."""

    total: int


@dataclass(frozen=True)
class PointReached:
    """An evaluation of a training is on the disk."""

    item: Item
    point: TrainingPoint


@dataclass(frozen=True)
class FellBack:
    """The engine runs a training's encoder by a slower tier than its fastest; the sentence says why."""

    sentence: str


Event = Planned | Started | PhaseBegan | Finished | BlockBegan | TookTurn | Extended | PointReached | FellBack
