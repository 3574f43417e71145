"""The trainings of a run: cases x seeds x method lines, in the order they are trained; and where their checkpoints lie.

Loads without torch.
"""

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.configuration import sweep
from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.configuration.sweep import MethodLine, WorkItem
from bench.results.identity import key

if TYPE_CHECKING:
    from bench.configuration.config import Config


CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class TrainItem:
    """One training: a fresh process, one line of a case, one seed."""

    case: Case
    line: MethodLine
    seed: int

    @property
    def work(self) -> WorkItem:
        """What a measurement of the same line would be."""
        return WorkItem(self.case, self.line)

    @property
    def key(self) -> Hashable:
        """Identity, equal to that of its points."""
        return key(self.case.axes(), self.line, self.seed)

    def checkpoint(self, run_dir: Path) -> Path:
        """Where it is kept between its evaluations."""
        named = json.dumps([self.case.axes(), str(self.line), self.seed], sort_keys=True)
        digest = hashlib.sha256(named.encode()).hexdigest()[:12]
        return run_dir / CHECKPOINTS / f"{self.line.method}-seed-{self.seed}-{digest}.safetensors"

    def __str__(self) -> str:
        return f"{self.case} · {self.line} seed {self.seed}"


def plan(config: Config) -> tuple[TrainItem, ...]:
    """Everything that `[train]` asks for: seed by seed within a case, so that an interrupted run holds whole pairs."""
    single = config.run.model_copy(update={"blocks": 1, "canary": False})
    items = sweep.plan(config.training().model_copy(update={"run": single}))
    cases: dict[Case, list[MethodLine]] = {}
    for item in items:
        cases.setdefault(item.case, []).append(item.line)
    return tuple(
        TrainItem(case, line, seed) for case, lines in cases.items() for seed in config.train.seeds for line in lines
    )


def unfinished(path: Path) -> Path:
    """Where a checkpoint is written before it takes its place."""
    return path.with_name(f".{path.name}.partial")


def remove_checkpoint(path: Path) -> None:
    """Removes the checkpoint of a training that has ended, and what a crash left of a half-written one."""
    for each in (path, unfinished(path)):
        each.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


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
