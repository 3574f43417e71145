"""A run's progress: a live bar on a terminal, and one line per finished worker there and in log files."""

import math
import statistics
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from bench.results.analysis.tiers import fallback, ran
from bench.results.schema import Record
from bench.results.training import TrainingPoint
from bench.running.events import (
    BlockBegan,
    Event,
    Extended,
    FellBack,
    Finished,
    PhaseBegan,
    Planned,
    PointReached,
    Started,
    TookTurn,
)

STYLES = {"ok": "green", "skipped": "yellow", "oom": "magenta", "timeout": "red", "error": "red"}


def duration(seconds: float | None) -> str:
    """A duration as one reads it: 42 s, 3 min, 1 h 20 min."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(amount: int, noun: str, several: str = "") -> str:
    """`1 case`, `3 cases`; several: the plural where it is not formed with an s."""
    return f"{amount:,} {noun if amount == 1 else several or f'{noun}s'}"


def significant(value: float, digits: int = 4) -> str:
    """A positive number with so many significant digits, and all of those before the point: 0.01234, 12.30, 11,190."""
    rounded = float(f"{value:.{digits}g}")
    decimals = max(0, digits - 1 - math.floor(math.log10(rounded))) if rounded > 0 else 0
    return f"{rounded:,.{decimals}f}"


class ProgressView:
    """Shows the events of `manager.run` on `console`; a context manager, callable with an event."""

    noun, verb, taken = "measurement", "take", "there"

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case Planned(total=total, recorded=recorded):
                before = f", {recorded} are {self.taken} already" if recorded else ""
                self._line(Text(f"{count(total, self.noun)} to {self.verb}{before}"))
                self._task = self._bar.add_task("starting", total=total)
            case Started(item=item, eta_s=eta_s):
                self._started(event)
                left = f" · {duration(eta_s)} left" if eta_s is not None else ""
                self._describe(f"{item}{left}")
            case PhaseBegan(item=item, phase=phase, step=step):
                self._describe(f"{item} · {phase}" + ("" if step is None else f" after step {step}"))
            case BlockBegan(case=case, block=block, schedule=schedule):
                self._describe(f"{case} · block {block}, {schedule}")
                if not self.console.is_terminal:  # where no bar shows that a block is under way
                    self._line(Text(f"{case} · block {block}, {schedule}", style="dim"))
            case TookTurn(item=item, round=number):
                self._describe(f"{item} · round {number}")
            case Extended(total=total):
                if self._task is not None:
                    self._bar.update(self._task, total=total)
            case PointReached():
                self._describe(f"{event.item} · {self._reached(event)}")
            case FellBack(sentence=sentence):
                self._warn(sentence)
            case Finished():
                self._line(self._finished(event))
                if isinstance(event.record, Record):
                    self._warn(fallback(event.item.case.axes(), event.record.engine, ran(event.record)))
                if self._task is not None:
                    self._bar.update(self._task, completed=event.number)

    def _started(self, event: Started) -> None:
        """Before the first sign of a worker."""

    def _reached(self, event: PointReached) -> str:
        """What an evaluation has come to."""
        return f"step {event.point.step}"

    def _result(self, event: Finished) -> str:
        """What came of a worker, and of which."""
        record = event.record
        result = "-"
        if isinstance(record, Record) and record.outcome == "ok" and record.samples_s:
            result = f"{significant(statistics.median(record.samples_s) * 1000)} ms/step"
        return f"{result:>14}  {event.item}"

    def _finished(self, event: Finished) -> Text:
        record, width = event.record, len(str(event.total))
        line = Text(f"[{event.number:{width}}/{event.total}] ")
        line.append(f"{record.outcome or '':7}", style=STYLES.get(record.outcome or "", ""))
        line.append(f" {self._result(event)}")
        if record.reason:
            line.append(f": {record.reason}", style="yellow")
        if event.eta_s is not None and event.number < event.total:
            line.append(f"  ({duration(event.eta_s)} left)", style="dim")
        return line

    def _warn(self, sentence: str | None) -> None:
        if sentence is not None and sentence not in self._warned:
            self._warned.add(sentence)
            self._line(Text(f"warning: {sentence}"))

    def _describe(self, text: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=text)

    def _line(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True)


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
