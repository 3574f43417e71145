"""What a training run leaves behind besides `run.json`: `training.jsonl`, one `TrainingPoint` per evaluation.

Append-only and fsynced, as results.jsonl is, and by the same rules: a half-written last line is dropped with a warning,
any other damage is an error. The points of one training (a line of a case with one seed) follow each other; the last
one carries the outcome, and a failure that further points follow is void, since the training went on. So is an
evaluation that one of no later step follows: the training went back to a checkpoint before it, or lost its own. Raw
facts only; what is derived of them is computed when read. Loads without torch.

Format history
1: first version.
2: what `detail` may hold is fixed, and entries that do not apply are not written.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from bench.results import store
from bench.results.detail import TrainingDetail, of_version_1
from bench.results.files import JsonLines
from bench.results.identity import key
from bench.results.schema import Exactness, LineFields, Outcome, PeakMemory, RunInfo

SCHEMA_VERSION: Final = 2
POINTS_FILE: Final = "training.jsonl"

Stopped = Literal["patience", "max_epochs", "max_steps", "max_train_s"]
Quality = dict[str, float | None]
"""Metric -> value; None where the split leaves nothing to judge by it."""


class TrainingPoint(LineFields):
    """A training where it was evaluated, or where it failed.

    Columns of the same name mean what they do in a `Record`.
    """

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    seed: int
    exactness: Exactness

    step: Annotated[int, Field(ge=0)]
    """CF steps taken so far."""
    epoch: float | None = None
    """The same in epochs; None where the workload has none."""
    train_s: float
    """Seconds of wall-clock spent on steps so far: making batches counts, evaluation, checkpoints and set-up do not."""
    interactions: int
    """Item slots stepped on so far."""
    loss: float | None = None
    """Mean training loss of the steps since the point before."""
    validation: Quality = Field(default={})
    test: Quality = Field(default={})
    """Scored where the validation metric is a new best, empty elsewhere."""
    evaluation_s: float | None = None
    """Seconds that this evaluation took; no part of train_s."""
    peak_memory_bytes: PeakMemory = PeakMemory()
    """Up to the first evaluation: whole intervals of training, and no scoring."""
    outcome: Outcome | None = None
    """How the training ended; None: it goes on."""
    stopped: Stopped | None = None
    """What ended it, where the outcome is ok."""
    reason: str | None = None
    """Why the outcome is not ok, in one sentence."""
    detail: TrainingDetail = TrainingDetail()
    """With the outcome."""

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, values: Any) -> Any:
        return of_version_1(values, TrainingDetail, SCHEMA_VERSION)

    @property
    def key(self) -> Hashable:
        """Whose point it is, equal to the identity of the item that is trained."""
        return key(self.case, self, self.seed)


@dataclass(frozen=True)
class LoadedTraining:
    """A training run as read."""

    run_dir: Path
    info: RunInfo
    points: tuple[TrainingPoint, ...]
    warnings: tuple[str, ...]


def trainings(points: Iterable[TrainingPoint]) -> dict[Hashable, tuple[TrainingPoint, ...]]:
    """The points of each training, in the order of their steps; trainings in the order of their first point."""
    found: dict[Hashable, list[TrainingPoint]] = {}
    for point in points:
        found.setdefault(point.key, []).append(point)
    return {key: tuple(own) for key, own in found.items()}


def append(run_dir: Path, point: TrainingPoint) -> None:
    """Adds one point and returns when it is on the disk; raises as `store.append` does."""
    _points(run_dir).append([point])


def load(run_dir: Path) -> LoadedTraining:
    """Reads a training run; one that has not evaluated anything yet has no points. Raises as `store.load` does."""
    info = store.read_info(run_dir)
    points, warnings = _points(run_dir).read()
    return LoadedTraining(run_dir, info, _without_repeated(_without_resumed_failures(points)), tuple(warnings))


def _points(run_dir: Path) -> JsonLines[TrainingPoint]:
    return JsonLines(run_dir / POINTS_FILE, TrainingPoint, "point")


def _without_resumed_failures(points: list[TrainingPoint]) -> tuple[TrainingPoint, ...]:
    last = {point.key: place for place, point in enumerate(points)}
    failed = ("oom", "timeout", "error", "skipped")
    return tuple(point for place, point in enumerate(points) if point.outcome not in failed or last[point.key] == place)


def _without_repeated(points: Iterable[TrainingPoint]) -> tuple[TrainingPoint, ...]:
    """Less the evaluations that a training which went back took again, or will."""
    last: dict[Hashable, int] = {}
    kept: list[TrainingPoint] = []
    for point in points:
        key = point.key
        if point.validation and point.step <= last.get(key, -1):
            kept = [each for each in kept if each.key != key or each.step < point.step]
        last[key] = point.step
        kept.append(point)
    return tuple(kept)
