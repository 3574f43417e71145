"""A training run's progress: a live bar on a terminal, one line per evaluation there, one per finished training."""

from __future__ import annotations

import math

from rich.text import Text

from bench.progress import STYLES, ProgressView, count, duration
from bench.results.training import TrainingPoint
from bench.training.events import Ended, Event, FellBack, PhaseBegan, Planned, PointReached, Started


class TrainingView(ProgressView):
    """Shows the events of `bench.training.manager.run`; metric: what is shown of each evaluation."""

    metric = "auc"
    _best: TrainingPoint | None = None
    """The evaluation with the highest metric of the training that goes on."""

    def __call__(self, event: Event) -> None:  # type: ignore[override] # a training's events are others
        """Shows one event."""
        match event:
            case Planned(total=total, recorded=recorded):
                before = f", {recorded} are done already" if recorded else ""
                self._line(Text(f"{count(total, 'training')} to do{before}"))
                self._task = self._bar.add_task("starting", total=total)
            case Started(item=item, eta_s=eta_s, earlier=earlier):
                self._best = None
                for point in earlier:
                    self._note(point)
                left = f" · {duration(eta_s)} left" if eta_s is not None else ""
                self._describe(f"{item}{left}")
            case PhaseBegan(item=item, phase=phase, step=step):
                self._describe(f"{item} · {phase} after step {step}")
            case PointReached(item=item, point=point):
                self._note(point)
                self._describe(f"{item} · {self._reached(point)}")
            case FellBack(sentence=sentence):
                self._tell(sentence)
            case Ended():
                self._line(self._ended(event))
                if self._task is not None:
                    self._bar.update(self._task, completed=event.number)

    def _note(self, point: TrainingPoint) -> None:
        """Keeps the first of the highest evaluations, as early stopping does."""
        value = point.validation.get(self.metric)
        best = None if self._best is None else self._best.validation[self.metric]
        if value is not None and not math.isnan(value) and (best is None or value > best):
            self._best = point

    def _reached(self, point: TrainingPoint) -> str:
        value = point.validation.get(self.metric)
        quality = "" if value is None else f"{self.metric} {100 * value:.1f} "
        return f"{quality}at step {point.step} in {duration(point.train_s)}"

    def _done(self, last: TrainingPoint) -> str:
        """The best evaluation, and where the training ended beyond it."""
        if self._best is None:
            return self._reached(last)
        beyond = f", ended at step {last.step}" if last.step > self._best.step else ""
        return f"best {self._reached(self._best)}{beyond}"

    def _ended(self, event: Ended) -> Text:
        point, width = event.point, len(str(event.total))
        line = Text(f"[{event.number:{width}}/{event.total}] ")
        line.append(f"{point.outcome or '':7}", style=STYLES.get(point.outcome or "", ""))
        line.append(f" {self._done(point) if point.outcome == 'ok' else '-'}, {event.item}")
        if point.reason:
            line.append(f": {point.reason}", style="yellow")
        if event.eta_s is not None and event.number < event.total:
            line.append(f"  ({duration(event.eta_s)} left)", style="dim")
        return line
