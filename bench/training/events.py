"""What a training run tells whoever shows its progress, in the order it happens."""

from __future__ import annotations

from dataclasses import dataclass

from bench.results.training import TrainingPoint
from bench.training.messages import FellBack, Phase
from bench.training.plan import TrainItem


@dataclass(frozen=True)
class Planned:
    """Before the first training: how many there are to do, and how many a former run finished already."""

    total: int
    recorded: int


@dataclass(frozen=True)
class Started:
    """A worker begins. number: 1 for the first one of this call; eta_s: None before anything is known; earlier: the
    evaluations of a former call that it goes on from."""

    item: TrainItem
    number: int
    total: int
    eta_s: float | None
    earlier: tuple[TrainingPoint, ...] = ()


@dataclass(frozen=True)
class PhaseBegan:
    """The worker of `item` says where it is, after so many steps."""

    item: TrainItem
    phase: Phase
    step: int


@dataclass(frozen=True)
class PointReached:
    """An evaluation is on the disk."""

    item: TrainItem
    point: TrainingPoint


@dataclass(frozen=True)
class Ended:
    """The training has its outcome on the disk."""

    item: TrainItem
    point: TrainingPoint
    number: int
    total: int
    eta_s: float | None


Event = Planned | Started | PhaseBegan | FellBack | PointReached | Ended
