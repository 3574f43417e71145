"""One method training on one case: steps in timed stretches, an evaluation after each, until it gets no better.

A stretch ends at the first step at or after a due one that leaves nothing pending: to finish an open interval early
would be another training. Its wall-clock runs from a synchronised device to a synchronised device and holds steps and
the making of their batches; evaluation, checkpoints and set-up lie outside, and what compiles in untimed steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.build.assembly import Built
from bench.configuration.train_settings import TrainSettings
from bench.machine.memory import peak_memory
from bench.measure.clock import Clock
from bench.processes.failures import NonFiniteLoss
from bench.results.schema import PeakMemory
from bench.results.training import Quality, Stopped
from bench.training import checkpoint, judging
from bench.training.checkpoint import Checkpoint
from bench.workloads._base import HeldOut, Scored
from gram_core.methods.multi_step import resolve_accumulation_steps
from gram_core.protocols import Accumulating
from gram_core.training import Training

EPOCHS_APART = 10_000
"""A seed's batches are those of epochs that no other seed gets to."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation point says beyond whose it is; fields as in `TrainingPoint`."""

    step: int
    epoch: float | None
    train_s: float
    interactions: int
    loss: float
    validation: Quality
    test: Quality
    evaluation_s: float
    peak_memory_bytes: PeakMemory
    stopped: Stopped | None


class Learner:
    """A built method, trained stretch by stretch: `advance`, then `evaluate`, until `stopped` says why it is over.

    seed: of the order of batches and of their negatives. What is held out, and the questions asked of it, are the
    workload's own and the same for every seed. Raises ValueError where the workload holds nothing out.
    """

    def __init__(self, built: Built, settings: TrainSettings, clock: Clock, seed: int = 0):
        if built.workload.validation is None or built.workload.test is None:
            raise ValueError("the workload holds nothing out, so that there is nothing to evaluate")
        self.built, self.settings, self.clock = built, settings, clock
        self.method = built.method
        self.step, self.train_s, self.interactions = 0, 0.0, 0
        self.stopping = EarlyStopping(settings.patience)
        self.stopped: Stopped | None = None
        self._splits = {"validation": built.workload.validation, "test": built.workload.test}
        self._scored: dict[str, list[Scored]] = {}
        self._loss = math.nan
        self._peak: PeakMemory | None = None
        epoch = built.workload.steps_per_epoch
        self._epoch = epoch
        self._every = resolve_accumulation_steps(settings.evaluate_every, epoch)
        self._first_batch = seed * EPOCHS_APART * (epoch or 1)
        self._last, self._limit = _last_step(settings, epoch)

    @property
    def training(self) -> Training:
        """What the method trains: its own where it has one."""
        return self.built.stepping

    def warm_up(self) -> None:
        """Takes the untimed steps and undoes them: training begins, or goes on, as if they had not been."""
        if not self.settings.untimed_steps:
            return
        before = checkpoint.kept(self.method, self.training)
        for ahead in range(self.settings.untimed_steps):
            self.method.step(self.built.workload.batches(self._first_batch + self.step + ahead))
        self.method.finish()
        checkpoint.rewind(before, self.method, self.training)

    def advance(self) -> None:
        """One stretch of steps; raises NonFiniteLoss where training diverged."""
        due = (self.step // self._every + 1) * self._every
        losses: list[Tensor] = []
        self.clock.synchronise()
        began = self.clock.now()
        while not self._at_end(began) and (self.step < due or self._pending()):
            batch = self.built.workload.batches(self._first_batch + self.step)
            losses.append(self.method.step(batch))
            self.step += 1
            self.interactions += batch.item_slots
        if self._at_end(began):
            self.method.finish()  # nothing comes after, so that it changes nobody's course
        self.clock.synchronise()
        self.train_s += self.clock.now() - began
        self._loss = _mean(losses, self.step)

    def evaluate(self) -> Evaluation:
        """Scores the validation split, at a new best the test split too, and decides whether training goes on."""
        if self._peak is None:
            self._peak = peak_memory(self.built.training.device)
        began = self.clock.now()
        validation = self._quality("validation")
        self.stopping = self.stopping.after(validation[self.settings.metric])
        test = self._quality("test") if self.stopping.is_best else {}
        self.stopped = self._why_stopped()
        return Evaluation(
            step=self.step,
            epoch=None if self._epoch is None else self.step / self._epoch,
            train_s=self.train_s,
            interactions=self.interactions,
            loss=self._loss,
            validation=validation,
            test=test,
            evaluation_s=self.clock.now() - began,
            peak_memory_bytes=self._peak,
            stopped=self.stopped,
        )

    def undecidable(self) -> dict[str, str]:
        """Splits that no metric can be had of, each with its reason; of those that were scored."""
        task = self.training.cf_module.task
        found = {split: judging.undecidable(task, scored) for split, scored in self._scored.items()}
        return {split: reason for split, reason in found.items() if reason is not None}

    def checkpoint(self) -> Checkpoint:
        """Everything that `restore` needs to go on from here."""
        kept = checkpoint.of(self.method, self.training)
        place = {
            "step": self.step,
            "train_s": self.train_s,
            "interactions": self.interactions,
            "best": self.stopping.best,
            "since_best": self.stopping.since_best,
            "peak": self._peak.model_dump() if self._peak else None,
        }
        return Checkpoint(kept.tensors, {**kept.facts, "place": place})

    def restore(self, kept: Checkpoint) -> None:
        """Goes on from a checkpoint of the same training."""
        checkpoint.restore(kept, self.method, self.training)
        place: dict[str, Any] = kept.facts["place"]
        self.step, self.train_s, self.interactions = place["step"], place["train_s"], place["interactions"]
        self.stopping = EarlyStopping(self.settings.patience, place["best"], place["since_best"])
        self._peak = PeakMemory(**place["peak"]) if place["peak"] else None

    def _quality(self, split: str) -> Quality:
        held_out: HeldOut = self._splits[split]
        if split not in self._scored:
            self._scored[split] = judging.all_of(held_out)
        return judging.quality(self.training, self.training.cf_module.task, self._scored[split])

    def _pending(self) -> bool:
        if isinstance(self.method, Accumulating):
            return self.method.pending
        return self.step % self.method.interval != 0

    def _at_end(self, began: float) -> bool:
        return self.step >= self._last or self._out_of_time(began)

    def _out_of_time(self, began: float) -> bool:
        limit = self.settings.max_train_s
        return limit is not None and self.step > 0 and self.train_s + self.clock.now() - began >= limit

    def _why_stopped(self) -> Stopped | None:
        if self.stopping.over:
            return "patience"
        if self.step >= self._last:
            return self._limit
        limit = self.settings.max_train_s
        return "max_train_s" if limit is not None and self.train_s >= limit else None


def _last_step(settings: TrainSettings, epoch: int | None) -> tuple[float, Stopped]:
    """The step after which training ends whatever its quality, and which setting says so."""
    limits: list[tuple[float, Stopped]] = []
    if settings.max_steps is not None:
        limits.append((settings.max_steps, "max_steps"))
    if settings.max_epochs is not None and epoch is not None:
        limits.append((max(1, math.ceil(settings.max_epochs * epoch)), "max_epochs"))
    return min(limits, default=(math.inf, "max_steps"))


def _mean(losses: list[Tensor], step: int) -> float:
    mean = float(torch.stack(losses).double().mean())
    if not math.isfinite(mean):
        raise NonFiniteLoss(f"the loss is {mean} by step {step}; lower the learning rate or choose another precision")
    return mean


@dataclass(frozen=True)
class EarlyStopping:
    """The best value so far, and how many evaluations have passed since."""

    patience: int
    best: float | None = None
    since_best: int = 0

    def after(self, value: float | None) -> EarlyStopping:
        """The state after one more evaluation; a value that is missing or not a number is never a best."""
        if value is not None and not math.isnan(value) and (self.best is None or value > self.best):
            return replace(self, best=value, since_best=0)
        return replace(self, since_best=self.since_best + 1)

    @property
    def is_best(self) -> bool:
        """Whether the last evaluation was the best one."""
        return self.best is not None and self.since_best == 0

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.since_best >= self.patience
