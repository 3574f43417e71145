"""A training run's progress: each evaluation as it comes, and of a finished training its best."""

from __future__ import annotations

import math

from bench.progress import ProgressView, duration
from bench.results.training import TrainingPoint
from bench.running.events import Finished, PointReached, Started


class TrainingView(ProgressView):
    """Shows the events of `bench.training.manager.run`; metric: what is shown of each evaluation."""

    noun, verb, taken = "training", "do", "done"
    metric = "auc"
    _best: TrainingPoint | None = None
    """The evaluation with the highest metric of the training that goes on."""

    def _started(self, event: Started) -> None:
        self._best = None
        for point in event.earlier:
            self._note(point)

    def _reached(self, event: PointReached) -> str:
        self._note(event.point)
        return self._quality(event.point)

    def _note(self, point: TrainingPoint) -> None:
        """Keeps the first of the highest evaluations, as early stopping does."""
        value = point.validation.get(self.metric)
        best = None if self._best is None else self._best.validation[self.metric]
        if value is not None and not math.isnan(value) and (best is None or value > best):
            self._best = point

    def _quality(self, point: TrainingPoint) -> str:
        value = point.validation.get(self.metric)
        quality = "" if value is None else f"{self.metric} {100 * value:.1f} "
        return f"{quality}at step {point.step} in {duration(point.train_s)}"

    def _result(self, event: Finished) -> str:
        """The best evaluation, and where the training ended beyond it."""
        last = event.record
        assert isinstance(last, TrainingPoint), "trainings end with a point"
        if last.outcome != "ok":
            return f"-, {event.item}"
        if self._best is None:
            return f"{self._quality(last)}, {event.item}"
        beyond = f", ended at step {last.step}" if last.step > self._best.step else ""
        return f"best {self._quality(self._best)}{beyond}, {event.item}"
