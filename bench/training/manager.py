"""Trains every line of a run: one fresh process each, every outcome recorded, nothing trained twice.

The manager alone writes `training.jsonl`. A training that has an outcome is done, unless its worker was killed; one
that has points and no outcome, or was killed, goes on from its checkpoint when `run` is called again.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from bench.configuration.config import Config
from bench.errors import BenchError
from bench.inputs import contents
from bench.processes.failures import Failure
from bench.processes.fork_server import Worker
from bench.processes.messages import Entered
from bench.processes.signals import held_back
from bench.processes.supervision import WorkerFailed, messages
from bench.results import store, training
from bench.results.identity import key
from bench.results.schema import Exactness
from bench.results.training import TrainingPoint
from bench.running.eta import Pace
from bench.running.events import Event, FellBack, Finished, PhaseBegan, Planned, PointReached, Started
from bench.training import worker
from bench.training.plan import Reached, TrainItem, TrainJob, Unwritable, remove_checkpoint


def run(config: Config, run_dir: Path, items: Sequence[TrainItem], on_event: Callable[[Event], None]) -> None:
    """Trains every item that `run_dir` has no outcome of, or whose worker was killed.

    Raises BenchError where a result cannot be written or a worker cannot be ended, KeyboardInterrupt on Ctrl-C; in
    each case `run` goes on from there, and no worker is left.
    """
    recorded = training.trainings(training.load(run_dir).points)
    ends = {key: points[-1] for key, points in recorded.items()}
    outcomes = {key: end for key, end in ends.items() if end.outcome is not None and not _was_killed(end)}
    for item in items:
        if item.key in outcomes:
            remove_checkpoint(item.checkpoint(run_dir))
    todo = [item for item in items if item.key not in outcomes]
    on_event(Planned(len(todo), len(items) - len(todo)))
    pace = Pace()
    for number, item in enumerate(todo, start=1):
        began = time.monotonic()
        earlier = tuple(each for each in recorded.get(item.key, ()) if each.validation)
        left_s = pace.remaining_s([each.work for each in todo[number - 1 :]])
        on_event(Started(item, number, len(todo), left_s, earlier))
        last = earlier[-1] if earlier else None
        point, took_s = _hopeless(config, run_dir, item, outcomes), 0.0
        if point is None:
            point = Recorder(TrainJob(config, item, run_dir), last, on_event).supervise()
            took_s = time.monotonic() - began
            pace.took(item.work, took_s)
        else:
            _write(run_dir, point)
        outcomes[item.key] = point
        if not _was_killed(point):
            remove_checkpoint(item.checkpoint(run_dir))
        left_s = pace.remaining_s([each.work for each in todo[number:]])
        on_event(Finished(item, point, number, len(todo), took_s, left_s))


class Recorder:
    """One training as its worker tells of it: every point goes to the disk, none of them twice.

    last: the evaluation recorded last by a former call; None where the line begins.
    """

    def __init__(self, job: TrainJob, last: TrainingPoint | None, on_event: Callable[[Event], None]) -> None:
        self.job, self.last, self.on_event = job, last, on_event
        self._phase = "start"
        self._step = last.step if last else 0
        self._claim: Exactness | None = None

    def supervise(self) -> TrainingPoint:
        """Runs the worker; returns the point with its outcome. The worker is gone when this returns or raises."""
        timeout_s = self.job.config.train.timeout_s
        with Worker(worker.main, self.job) as process:
            try:
                for message in messages(process, lambda: self._phase, timeout_s, setting="train.timeout_s"):
                    point = self.hear(message)
                    if point is not None and point.outcome is not None:
                        return point
                raise AssertionError("messages end by an exception")
            except WorkerFailed as failed:
                return self._failed(failed.failure, {"output": failed.output, "exit_code": failed.exit_code})

    def hear(self, message: Any) -> TrainingPoint | None:
        """Takes a worker's message; returns the point that it holds, which is on the disk by then."""
        if isinstance(message, Unwritable):
            raise BenchError(f"{message.sentence} `gram-bench resume {self.job.run_dir}` goes on with the training.")
        if isinstance(message, Entered):
            self._phase, self._step, self._claim = message.phase, message.step or 0, message.exactness
            self.on_event(PhaseBegan(self.job.item, message.phase, message.step))
            return None
        if isinstance(message, FellBack):
            self.on_event(message)
            return None
        assert isinstance(message, Reached)
        point = TrainingPoint.model_validate(message.point)
        if point.outcome not in (None, "ok"):
            point = self._with_progress(point)
        if not self._recorded(point):
            _write(self.job.run_dir, point)
            self.last = point
            self.on_event(PointReached(self.job.item, point))
        return point

    def _recorded(self, point: TrainingPoint) -> bool:
        """Whether it is the point of a checkpoint that had been recorded before the worker went on from it."""
        return self.last is not None and self.last.step == point.step and self.last.outcome == point.outcome

    def _failed(self, failure: Failure, further: dict[str, Any]) -> TrainingPoint:
        point = self._with_progress(worker.failed_point(self.job, failure, self._claim, self._step, further))
        _write(self.job.run_dir, point)
        return point

    def _with_progress(self, point: TrainingPoint) -> TrainingPoint:
        """A failure with what the training had come to before it."""
        if self.last is None:
            return point
        known = ("train_s", "interactions", "epoch", "peak_memory_bytes")
        return point.model_copy(update={name: getattr(self.last, name) for name in known} | {"step": self.last.step})


def killed(run_dir: Path) -> bool:
    """Whether a worker was killed that `run` would go on with."""
    return any(_was_killed(points[-1]) for points in training.trainings(training.load(run_dir).points).values())


def _was_killed(point: TrainingPoint) -> bool:
    """Whether a signal ended the worker: by somebody's hand or for want of memory, which may be otherwise next time."""
    return (point.detail.exit_code or 0) < 0


def _hopeless(
    config: Config, run_dir: Path, item: TrainItem, outcomes: dict[Hashable, TrainingPoint]
) -> TrainingPoint | None:
    """The skipped training of a line that ran out of memory with another seed; None where it is worth trying."""
    axes, line = item.case.axes(), item.line
    mine = [point for point in outcomes.values() if key(point.case, point) == key(axes, line)]
    seen = next((point for point in mine if point.outcome == "oom"), None)
    if seen is None:
        return None
    failure = Failure("skipped", f"{item.line} ran out of memory with seed {seen.seed}")
    return worker.failed_point(TrainJob(config, item, run_dir), failure, seen.exactness, 0)


def _write(run_dir: Path, point: TrainingPoint) -> None:
    contents.check_measured(run_dir, [point])
    try:
        with held_back():
            training.append(run_dir, point)
    except store.UnwritableResults as error:
        raise BenchError(f"{error} `gram-bench resume {run_dir}` goes on with the training.") from error
