"""Timed windows: synchronise, clock, work, synchronise, clock, and nothing but the work in between.

A unit is the shortest stretch of steps worth timing, a method's whole accumulation interval. A window holds as many
units as it takes to last `window_s`, so that the clock's own cost and resolution vanish in it.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from bench.configuration.config import RunSettings

WARM_UNITS, FEWEST_WARM_UNITS, WARM_S = 5, 2, 0.5
"""Units by which a warm-up sees that times have settled: the first number, or as many as take so long."""
WARM_TOLERANCE = 0.02
WARMUP_SHARE_OF_BUDGET = 0.5
SETTLES_ITSELF = 5
"""A unit of so many lead-ins needs none: what the device does at its beginning is a small part of it."""


class Clock(Protocol):
    """Reads time and waits for the device; a test's clock reads what the test says."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        ...

    def synchronise(self) -> None:
        """Returns when all work given to the device is done."""
        ...

    def marks(self) -> tuple[Any, Any] | None:
        """Two events that the device can be asked to note the time at; None where it keeps no time of its own."""
        ...


class HostClock:
    """Wall-clock of work that is done when its call returns, as on a CPU."""

    def now(self) -> float:
        """Seconds of `time.perf_counter`."""
        return time.perf_counter()

    def synchronise(self) -> None:
        """Nothing to wait for."""

    def marks(self) -> tuple[Any, Any] | None:
        """None: the host's clock is the only one."""
        return None


class CudaClock(HostClock):
    """Wall-clock of a CUDA device's work, with CUDA events as well."""

    def synchronise(self) -> None:
        """Waits for every stream of the current device."""
        import torch

        torch.cuda.synchronize()

    def marks(self) -> tuple[Any, Any] | None:
        """A pair of timing events."""
        import torch

        return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


@dataclass(frozen=True)
class Window:
    """One timed stretch: its steps, its wall-clock and, where the device keeps time, the device's own."""

    steps: int
    seconds: float
    device_seconds: float | None = None

    @property
    def step_s(self) -> float:
        """Seconds per step."""
        return self.seconds / self.steps

    @property
    def device_step_s(self) -> float | None:
        """Seconds per step by the device's events."""
        return None if self.device_seconds is None else self.device_seconds / self.steps


def timed(work: Callable[[], object], steps: int, clock: Clock) -> Window:
    """Runs `work`, which takes `steps` steps, in a timed window.

    Garbage is collected before and not within: a collection of this process's many objects takes longer than a
    short step and would land in some windows and not in others.
    """
    marks = clock.marks()
    with _no_garbage_collection():
        clock.synchronise()
        started = clock.now()
        if marks:
            marks[0].record()
        work()
        if marks:
            marks[1].record()
        clock.synchronise()
        seconds = clock.now() - started
    return Window(steps, seconds, marks[0].elapsed_time(marks[1]) / 1e3 if marks else None)


def settled(step_times_s: Sequence[float], units: int = WARM_UNITS) -> bool:
    """Whether the median of the last so many has stopped moving: within 2 % of the median that ended one earlier."""
    if len(step_times_s) <= units:
        return False
    now = statistics.median(step_times_s[-units:])
    before = statistics.median(step_times_s[-units - 1 : -1])
    return abs(now - before) < WARM_TOLERANCE * before


def _telling_units(unit_s: float) -> int:
    """How many units of so many seconds tell whether times have settled: fewer of long ones."""
    return min(WARM_UNITS, max(FEWEST_WARM_UNITS, math.ceil(WARM_S / max(unit_s, 1e-9))))


@dataclass(frozen=True)
class WarmUp:
    """The units of a warm-up, and what they took of the budget."""

    units: tuple[Window, ...]
    spent_s: float

    @property
    def steps(self) -> int:
        """Steps of all units."""
        return sum(unit.steps for unit in self.units)


def warm_up(
    unit: Callable[[], Window],
    settings: RunSettings,
    clock: Clock,
    initialised: Callable[[], object] = lambda: None,
    taken: Sequence[Window] = (),
) -> WarmUp:
    """Units until their time has settled, `max_warmup_steps` are taken or half of `budget_s` is spent.

    At least `min_warmup_steps` steps and one unit, whatever they cost. initialised: a value that changes while a
    unit still sets something up for good, as an allocator does that has to ask the driver for memory. The first
    unit, in which libraries initialise and kernels are compiled, and every unit that changed that value count as
    steps and take nothing of the budget, nor can the warm-up end within five units of one, or within fewer that take
    half a second: they say nothing about the steps to come. taken: units from before, which are like the first.
    """
    units = list(taken) or [unit()]
    state, steps, spent_s, quiet = initialised(), sum(unit.steps for unit in units), 0.0, 0
    while True:
        telling = _telling_units(units[-1].seconds)
        enough = (
            steps >= settings.max_warmup_steps
            or spent_s >= WARMUP_SHARE_OF_BUDGET * settings.budget_s
            or (quiet >= min(telling, len(units) - 1) and settled([unit.step_s for unit in units], telling))
        )
        if steps >= settings.min_warmup_steps and enough:
            return WarmUp(tuple(units), spent_s)
        started = clock.now()
        units.append(unit())
        steps += units[-1].steps
        before, state = state, initialised()
        if state == before:
            quiet += 1
            spent_s += clock.now() - started
        else:
            quiet = 0


def units_per_window(units: Sequence[Window], settings: RunSettings, steps: int, least_s: float = 0.0) -> int:
    """How many units of so many steps a window takes: for `window_steps`, or to last `window_s`, and `least_s` where
    that is longer, by the fastest of the warm-up's last five."""
    if settings.window_steps is not None:
        return math.ceil(settings.window_steps / steps)
    return max(1, _units(units, steps, max(settings.window_s, least_s)))


def lead_in_units(units: Sequence[Window], steps: int, lead_in_s: float) -> int:
    """How many units of so many steps last `lead_in_s`; none where one is so long that it settles by itself."""
    amount = _units(units, steps, lead_in_s)
    return 0 if amount == 1 and _units(units, steps, SETTLES_ITSELF * lead_in_s) == 1 else amount


def _units(units: Sequence[Window], steps: int, seconds: float) -> int:
    unit_s = steps * min(window.step_s for window in units[-WARM_UNITS:])
    return math.ceil(seconds / unit_s) if unit_s > 0 else 0


def samples(window: Callable[[], Window], settings: RunSettings, clock: Clock, spent_s: float) -> Iterator[Window]:
    """`samples` windows, fewer where another one would overrun `budget_s`, never fewer than `min_samples`.

    spent_s: what the warm-up took of the budget. What `window` does outside its clock counts too.
    """
    started, wanted = clock.now(), max(settings.samples, settings.min_samples)
    for taken in range(wanted):
        elapsed = clock.now() - started
        if taken >= settings.min_samples and spent_s + elapsed * (taken + 1) / taken > settings.budget_s:
            return
        yield window()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
