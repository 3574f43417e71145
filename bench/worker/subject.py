"""One method on one case, stepping in this process: what a worker measures, phase by phase.

setup -> warm-up -> windows -> facts. Batches are made ahead of each window and counted after the last one; a window
holds steps and nothing else. What drives a subject decides whose turn it is: a worker alone runs it straight
through, and workers that are resident together can be given one window at a time.

All lines of a case are timed on the same few batches, those most typical of the log. Windows go round them: the first
begins with the first of them, the next with the second, and a line that takes more steps to fill a window goes on from
there. So every line steps on all of them, and on none more often than on the others. A line that accumulates, or works
with encodings of earlier steps, meets new batches in every step instead, as does every line where windows are counted
in steps (`window_steps`); these begin at the same batch, however long each warmed up. What becomes ready within a
window, a graph of a size not met before, is set-up: the window is taken again.
"""

import contextlib
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.build.assembly import Built, build, resolve_device
from bench.machine.cores import compute_threads
from bench.machine.memory import fixed_bytes, peak_memory, reserved_bytes, resident_peak_bytes
from bench.measure import clock as clocks
from bench.measure.clock import Clock, WarmUp, Window
from bench.measure.sample import Sample, batch_counts, encoder_counts, sample
from bench.processes import failures
from bench.processes.messages import Entered, Finish, Job, Order, TakeWindow, Took, Warm
from bench.results.analysis.tiers import TIER, WHY
from bench.results.schema import Loss, Record, Throughput
from bench.worker.afterwards import cf_step_s, useful_work
from bench.worker.records import identity
from gram_core.batch import Batch

FIRST_TIMED = 1_000_000
"""The number of the batch that the first window begins with, or the next that begins an epoch: behind whatever warms
up."""
FIRST_LEADING_IN = 2 * FIRST_TIMED
"""The number of the batch that the first lead-in begins with: none of them is a measured one, which methods that reuse
encodings would then find fresh."""
READYING_UNITS = 2
"""Of a warm-up, taken while others are set up too, and so of no telling length: one compiles, one captures."""
FEWEST_TIMED = 2
"""Batches that windows go round, where so many were counted: one alone would hide what changes from step to step."""
TAKES = 3
"""Of a window: the first meets sizes, the second captures them, the third replays."""
LONG_S = 10.0
"""A window of so many seconds is not taken again: of these, what became ready took few."""


class Subject:
    """One method on one case. Call `set_up`, `warm_up`, then `window` or `take_windows`, then `record`."""

    def __init__(self, job: Job, clock: Clock | None = None) -> None:
        self.job = job
        self.device = resolve_device(job.config.run.device)
        self.clock = clock or (clocks.CudaClock() if self.device.type == "cuda" else clocks.HostClock())
        self.warm = WarmUp((), 0.0)
        self.windows: list[Window] = []
        self.setup_s: float | None = None
        self._readied: list[Window] = []
        self._started = self.clock.now()
        gc.freeze()  # all that was imported; collecting it would take longer than the whole setup of a small case
        self._memory_at_start = resident_peak_bytes()
        self._built: Built | None = None
        self._batches_made = 0
        self._ahead: list[Batch] = []
        self._stepping: list[Batch] = []
        self._measured: list[list[Batch]] = []
        """Batches of each window."""
        self._losses: list[float] = []
        self._waits: list[float] = []
        self._waited: list[float] = []
        self._began_s = self._ended_s = 0.0
        """Of the last timed steps."""
        self._led_in_s = 0.0
        """Before the last window."""
        self._lead_in_batches = FIRST_LEADING_IN
        self._retaken_s: list[float] = []
        """What each take that was not kept took beyond the one that was."""
        self._discarded_s = 0.0
        """Of the last window."""
        self._units_per_window = 1
        self._sample: Sample | None = None
        """What of the log was counted, once set up."""
        self._round: tuple[Batch, ...] = ()
        """The batches that windows go round, once warm; none where each step meets a new one."""

    @property
    def _warm_up_steps(self) -> int:
        settings = self.job.config.run
        return min(self.built.method.interval, max(settings.min_warmup_steps, settings.max_warmup_steps))

    @property
    def _first_timed(self) -> int:
        """The number of the batch that the first window begins with."""
        epoch = self.built.workload.steps_per_epoch or 1
        return -(-FIRST_TIMED // epoch) * epoch

    @property
    def built(self) -> Built:
        """The method with all that it steps on, once `set_up` is done."""
        assert self._built is not None, "set_up comes first"
        return self._built

    def set_up(self) -> None:
        """Data, weights, models, the first unit's batches, what the log repeats: everything before the first step."""
        torch.set_num_threads(self._threads())
        self._built = self._build()
        torch.manual_seed(self._seed())
        self._prepare(self._warm_up_steps)
        workload = self.built.workload
        self._sample = sample(self._whole_batch, self._first_timed, workload.table, workload.steps_per_epoch)
        _settle_garbage()
        self.clock.synchronise()
        self.setup_s = self.clock.now() - self._started
        if self.job.warms_up_when_told:
            self._readied = [self._warm_up_unit() for _ in range(READYING_UNITS)]

    def warm_up(self) -> None:
        """Steps until their time has settled, and decides how many a window takes.

        In whole intervals, or the first steps of one that is longer than max_warmup_steps.
        """
        settings = self.job.config.run
        self.warm = clocks.warm_up(
            self._warm_up_unit, settings, self.clock, lambda: self._reserved_bytes(), self._readied
        )
        self._units_per_window = clocks.units_per_window(self.warm.units, settings, self.built.method.interval)
        _settle_garbage()  # compilers leave as much behind as imports do
        self._batches_made, self._ahead = self._first_timed, []
        self._round = tuple(self._batch(number) for number in self._round_of())

    def window(self, lead_in_s: float = 0.0) -> Window:
        """One measured window; taken again, on the same batches, where something became ready in it.

        lead_in_s: how long to step before it, on other batches and untimed.
        """
        self._lead_in(lead_in_s)
        ready, takes = self._made_ready(), [self._take()]
        while len(takes) < TAKES and takes[-1].seconds < LONG_S and ready != (now := self._made_ready()):
            ready, self._ahead = now, self._stepping
            takes.append(self._take())
        window = takes[-1]
        self._retaken_s += [take.seconds - window.seconds for take in takes[:-1]]
        self._discarded_s = sum(take.seconds for take in takes[:-1])
        self._measured.append(self._stepping)
        self.windows.append(window)
        self._waits += self._waited
        return window

    def warm_up_message(self) -> Warm:
        """What the manager wants to know of set-up and warm-up."""
        assert self.setup_s is not None, "set_up comes first"
        initialised_s = self._initialised_s() or 0.0
        stepped_s = self.setup_s + sum(unit.seconds for unit in self.warm.units)
        return Warm(initialised_s, stepped_s - initialised_s, self.warm.spent_s)

    def window_message(self, order: TakeWindow) -> Took:
        """One measured window, its batches made beforehand, and what the manager wants to know of it."""
        settings, interval = self.job.config.run, self.built.method.interval
        self._units_per_window = clocks.units_per_window(self.warm.units, settings, interval, order.least_s)
        self._prepare(self._units_per_window * interval)
        window = self.window(order.lead_in_s)
        led_in_s = self._led_in_s
        return Took(self._began_s, self._ended_s, window.seconds, window.steps, self._discarded_s, led_in_s)

    def keep(self, kept: Sequence[int], reason: str | None) -> None:
        """Forgets all windows but these, by their positions; raises NothingKept, with the reason, for none."""
        if not kept:
            raise failures.NothingKept(reason or "no window was taken")
        self.windows = [self.windows[place] for place in kept]
        self._measured = [self._measured[place] for place in kept]

    def take_turns(self, say: Callable[[Entered | Warm | Took], None], hear: Callable[[], Order]) -> None:
        """A window for each order to take one; then the manager's choice of those that are kept."""
        say(self.warm_up_message())
        while isinstance(order := hear(), TakeWindow):
            say(self.window_message(order))
        assert isinstance(order, Finish), "no other order comes after the warm-up"
        self.keep(order.kept, order.reason)

    def take_windows(self) -> None:
        """As many windows as the settings ask for and the budget allows."""
        for _ in clocks.samples(self.window, self.job.config.run, self.clock, self.warm.spent_s):
            pass

    def steps(self, units: int) -> Window:
        """So many units on batches made before them, timed; a profiler looks at some outside the measurement."""
        return self._timed(self._made(units * self.built.method.interval))

    def recent_batches(self, count: int) -> list[Batch]:
        """The batches of the last steps, at most as many as the last window had."""
        return self._stepping[-count:]

    def record(self) -> Record:
        """The measurement."""
        median_s = statistics.median(window.step_s for window in self.windows)
        batches = list(itertools.chain.from_iterable(self._measured))
        counts, facts = self._counts(batches) | self._ratio(), self._facts()
        alone_s = self._cf_step_s()  # once peaks have been read
        first = self.job.item.block == self.job.item.replica == 0 and self.job.work_is_counted
        work, unknown = useful_work(self.built, batches) if first else ({}, {})
        return Record(
            **identity(self.job),
            outcome="ok",
            exactness=self.built.exactness,
            samples_s=tuple(window.step_s for window in self.windows),
            steps_per_sample=self.windows[0].steps,
            device_samples_s=tuple(w.device_step_s for w in self.windows if w.device_step_s is not None),
            **facts | {"detail": facts["detail"] | unknown},
            **counts,
            **work,
            throughput_per_s=Throughput(
                users=counts["users"] / median_s,
                item_slots=counts["item_slots"] / median_s,
                real_tokens=counts["real_tokens"] / median_s,
            ),
            loss=Loss(first=self._losses[0], last=self._losses[-1]),
            cf_step_s=alone_s,
        )

    def known(self) -> dict[str, Any]:
        """The columns that a failed measurement still knows, as far as they can be had."""
        columns: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # what ended the measurement may end this too: a failed device, no memory
            if self._built is not None:
                columns |= self._facts()
                batches = list(itertools.chain.from_iterable(self._measured))
                columns |= self._counts(batches or self._stepping or self._ahead)
        return columns

    def _lead_in(self, seconds: float) -> None:
        """Untimed steps until the device's clock and power are those of this method's steps, whatever ran before."""
        steps = clocks.lead_in_units(self.warm.units, self.built.method.interval, seconds) * self.built.method.interval
        self._led_in_s = 0.0
        if steps:
            batches = [self._batch(self._lead_in_batches + place) for place in range(steps)]
            self._lead_in_batches += steps
            self._led_in_s = self._timed(batches).seconds

    def _take(self) -> Window:
        """A window that may be kept, and in `_waited` what its device waited, per step, where the engine tells."""
        self._waited_s()
        window = self.steps(self._units_per_window)
        waited_s = self._waited_s()
        self._waited = [] if waited_s is None else [waited_s / window.steps]
        return window

    def _made_ready(self) -> int:
        """Calls of the method so far that made something ready which later ones find."""
        graphs = self.built.graphs
        return graphs.made_ready() if graphs else 0

    def _warm_up_unit(self) -> Window:
        steps, method = self._warm_up_steps, self.built.method
        return self._timed(self._made(steps), method.finish if steps < method.interval else None)

    def _made(self, steps: int) -> list[Batch]:
        """The next batches, which were made before or are now."""
        self._prepare(steps)
        self._stepping, self._ahead = self._ahead, []
        return self._stepping

    def _timed(self, batches: list[Batch], then: Callable[[], None] | None = None) -> Window:
        method, training = self.built.method, self.built.stepping
        losses: list[Tensor] = []

        def work() -> None:
            self._began_s = time.monotonic()
            for batch in training.ahead(batches):
                losses.append(method.step(batch))
            if then is not None:
                then()

        window = clocks.timed(work, len(batches), self.clock)
        self._ended_s = time.monotonic()
        self._keep_losses(training.joint_losses(torch.stack(losses)).detach().double().tolist())
        return window

    def _prepare(self, steps: int) -> None:
        """Makes batches ahead of the clock until there are so many."""
        while len(self._ahead) < steps:
            if self._round:
                place = len(self.windows) + len(self._ahead)
                self._ahead.append(replace(self._round[place % len(self._round)]))  # plans know a batch by its identity
            else:
                self._ahead.append(self._batch(self._batches_made))
                self._batches_made += 1

    def _round_of(self) -> tuple[int, ...]:
        """Numbers of the batches to go round: as many as every line is sure to take windows."""
        run, built = self.job.config.run, self.built
        if run.window_steps is not None or built.method.interval > 1 or built.exactness == "stale" or not self._sample:
            return ()
        return self._sample.numbers[: max(FEWEST_TIMED, run.rounds if run.paired else run.min_samples)]

    def _build(self) -> Built:
        return build(self.job.config, self.job.item, self.device)

    def _threads(self) -> int:
        return compute_threads(self.device.type)

    def _seed(self) -> int:
        return self.job.config.run.seed

    def _batch(self, number: int) -> Batch:
        return self.built.workload.batches(number)

    def _whole_batch(self, number: int) -> Batch:
        """That of all processes that train together."""
        return self._batch(number)

    def _reserved_bytes(self) -> int:
        return reserved_bytes(self.device)

    def _keep_losses(self, losses: list[float]) -> None:
        for loss in losses:
            if not math.isfinite(loss):
                raise failures.NonFiniteLoss(
                    f"the loss is {loss} at step {len(self._losses) + 1}; lower run.measured_learning_rate or choose "
                    "another precision"
                )
            self._losses.append(loss)

    def _counts(self, batches: list[Batch]) -> dict[str, Any]:
        built = self.built
        whole = len(batches) % built.method.interval == 0  # unlike the warm-up's of a long interval
        interval = built.method.interval if whole else 1
        return {
            **batch_counts(batches, built.workload.table, interval),
            **encoder_counts(batches, built.workload.table, built.encoder, built.method),
        }

    def _ratio(self) -> dict[str, float | None]:
        """Of all counted batches, which are more than the timed ones."""
        counted = self._sample
        return {} if counted is None else {"item_repetition_ratio": counted.item_repetition_ratio}

    def _basis(self) -> dict[str, Any]:
        """Of how many batches the ratio and the times are."""
        counted = self._sample
        if counted is None:
            return {}
        return {
            "ratio_batches": counted.batches,
            "ratio_relative_error": counted.relative_error,
            "timed_batches": len({id(batch.items) for window in self._measured for batch in window}),
            "timed_typical": bool(self._round),
        }

    def _waited_s(self) -> float | None:
        """Seconds in which the device waited for the host since the last call; None where the engine can't tell."""
        graphs = self.built.graphs
        return graphs.take_idle_s() if graphs else None

    def _initialised_s(self) -> float | None:
        """Set-up, and what steps took beyond a known size's pace: compilation, capture, first allocations."""
        if self.setup_s is None:
            return None
        seconds = [unit.seconds for unit in self.warm.units]
        retaken_s = max(0.0, sum(self._retaken_s))
        return self.setup_s + sum(seconds) - len(seconds) * min(seconds, default=0.0) + retaken_s

    def _cf_step_s(self) -> float | None:
        """None for logs without epochs, whose projection alone asks for it, and where so much of one batch diverges."""
        if self.built.workload.steps_per_epoch is None:
            return None
        try:
            return cf_step_s(self.built.method, self._stepping[-1], self._timed)
        except failures.NonFiniteLoss:
            return None

    def _facts(self) -> dict[str, Any]:
        return {
            "inputs": self.built.inputs,
            "setup_s": self._initialised_s(),
            "warmup_steps": self.warm.steps or None,
            "host_wait_s": statistics.median(self._waits) if self._waits else None,
            "peak_memory_bytes": peak_memory(self.device),
            "steps_per_epoch": self.built.workload.steps_per_epoch,
            **dict(zip((TIER, WHY), self.built.ran, strict=True)),
            "fixed_memory_bytes": fixed_bytes(self.built.stepping),
            "detail": {
                **self.built.detail,
                **({"graphs": graphs.capture_counts()} if (graphs := self.built.graphs) else {}),
                **({"windows_taken_again": len(self._retaken_s)} if self._retaken_s else {}),
                **self._basis(),
                **({"kept_bytes": kept} if (kept := self.built.method.kept_bytes) else {}),
                "first_unit_s": self.warm.units[0].seconds if self.warm.units else None,
                "threads": torch.get_num_threads(),
                "resident_at_start_bytes": self._memory_at_start,
                "resident_peak_bytes": resident_peak_bytes(),
            },
        }


def _settle_garbage() -> None:
    """What exists now stays: the collections before each window need not walk all of torch again."""
    gc.collect()
    gc.freeze()
