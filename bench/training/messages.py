"""What the manager and a training worker say to each other: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.configuration.config import Config
from bench.results.schema import Exactness
from bench.training.plan import TrainItem

Phase = Literal["start", "setup", "training", "evaluation"]


class TrainJob(NamedTuple):
    """What one worker is started with."""

    config: Config
    item: TrainItem
    run_dir: Path


@dataclass(frozen=True)
class Began:
    """The worker begins a phase, after so many steps."""

    phase: Phase
    step: int = 0
    exactness: Exactness | None = None


@dataclass(frozen=True)
class Reached:
    """An evaluation is done and its checkpoint on the disk: a `TrainingPoint`'s fields. The last one has an outcome."""

    point: dict[str, Any]


@dataclass(frozen=True)
class FellBack:
    """The engine runs the encoder by no way as fast as its fastest; the sentence says why. Set-up is done by then."""

    sentence: str


@dataclass(frozen=True)
class Unwritable:
    """The checkpoint could not be written: the run's trouble, not the method's."""

    sentence: str
