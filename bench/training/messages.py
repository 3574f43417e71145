"""What the manager and a training worker say to each other: plain values, besides those of a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.configuration.config import Config
from bench.training.plan import TrainItem


class TrainJob(NamedTuple):
    """What one worker is started with."""

    config: Config
    item: TrainItem
    run_dir: Path


@dataclass(frozen=True)
class Reached:
    """An evaluation is done and its checkpoint on the disk: a `TrainingPoint`'s fields. The last one has an outcome."""

    point: dict[str, Any]


@dataclass(frozen=True)
class Unwritable:
    """The checkpoint could not be written: the run's trouble, not the method's."""

    sentence: str
