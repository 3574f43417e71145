"""What the machine does meanwhile, read next to the workers: a GPU's clocks, power, energy, heat, throttling and other
processes, and how many tasks want the processor's cores.

A thread of the managing process asks the driver every few milliseconds, for the energy counter more often than for all
else; the workers know nothing of it. Afterwards the readings of any stretch of time can be had, by `time.monotonic`,
which all processes of a machine share. Whatever a device does not tell is None.
"""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from bench.machine.nvml import asked, device_handle
from bench.results.schema import POWER_CAP, Spread, Telemetry

PERIOD_S = 0.005
"""Between two looks at the energy counter, whose changes are dated by it."""
READINGS_EVERY = 4
"""Looks at the counter per reading of all else."""
HOST_PERIOD_S = 0.02
"""Between two looks at a machine without a GPU."""
_LOADAVG = Path("/proc/loadavg")
SAME_CLOCK = 1.03
"""Medians of the SM clock in this ratio are alike."""
COUNTER_LAG_S = 0.1
"""What the energy counter adds may have been used so long before: it changes every 100 ms."""
ENERGY_ERROR = 0.03
"""Energy that is not known so well, relative, by two standard errors, is no number."""
PROCESSES_EVERY = 10
"""Readings per look at the device's processes, which takes the driver longer than all else."""

THROTTLE_REASONS = {
    0x2: "applications_clocks_setting",
    0x4: POWER_CAP,
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (NVML API reference), but for idleness."""
SLOWDOWNS = frozenset(("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"))
"""The device protecting itself: what is measured meanwhile is the cooling, not the method."""


@dataclass(frozen=True)
class Reading:
    """The device at one moment. energy_j: a counter that only grows; processes: number -> its bytes on the device."""

    at_s: float
    sm_clock_mhz: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    temperature_c: float | None = None
    throttle_reasons: frozenset[str] | None = None
    processes: dict[int, int | None] | None = None
    runnable: int | None = None
    """Tasks of the whole machine that run or wait for a core, the reader among them."""


class Watch(Protocol):
    """Something that has watched a device; a test's watch has seen what the test says."""

    def between(self, began_s: float, ended_s: float) -> Sequence[Reading]:
        """Readings of that time, with the last one before it and the first one after it, as far as there are any."""
        ...

    def forget(self) -> None:
        """Readings so far are no longer needed."""
        ...


class Unwatched:
    """A machine that tells nothing."""

    def between(self, began_s: float, ended_s: float) -> Sequence[Reading]:
        """Nothing."""
        return ()

    def forget(self) -> None:
        """Nothing to forget."""


class Sampler:
    """Reads a source every `period_s` in a thread of its own, while in a `with`.

    all_every: looks at the energy counter per reading of all else, the latter among them.
    """

    def __init__(self, source: Source, period_s: float = PERIOD_S, all_every: int = READINGS_EVERY) -> None:
        self._source, self._period_s, self._all_every = source, period_s, all_every
        self._readings: list[Reading] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, began_s: float, ended_s: float) -> Sequence[Reading]:
        """Readings of that time and the two next to it, for which it may have to read once itself."""
        with self._lock:
            if not self._readings or self._readings[-1].at_s < ended_s:
                self._readings.append(self._source.read(with_processes=False))
            times = [reading.at_s for reading in self._readings]
            first, last = bisect_right(times, began_s) - 1, bisect_left(times, ended_s)
            return tuple(self._readings[max(0, first) : last + 1])

    def forget(self) -> None:
        """Drops all readings but the last."""
        with self._lock:
            del self._readings[:-1]

    def _run(self) -> None:
        count = 0
        while not self._ended.is_set():
            with self._lock:
                reading = self._reading(count)
                if reading is not None:
                    self._readings.append(reading)
            count += 1
            self._ended.wait(self._period_s)

    def _reading(self, count: int) -> Reading | None:
        if count % self._all_every == 0:
            return self._source.read(count // self._all_every % PROCESSES_EVERY == 0)
        energy_j = self._source.energy_j()
        return None if energy_j is None else Reading(time.monotonic(), energy_j=energy_j)


class HostSource:
    """A machine without a GPU: how many tasks want its cores."""

    def read(self, with_processes: bool) -> Reading:
        """The machine now."""
        return Reading(time.monotonic(), runnable=runnable_tasks())

    def energy_j(self) -> float | None:
        """Not known."""
        return None


def runnable_tasks(loadavg_file: Path = _LOADAVG) -> int | None:
    """Tasks of the whole machine that run or wait for a core; None where the system does not tell."""
    try:
        return int(loadavg_file.read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return None


class NvmlSource:
    """A CUDA device as its driver describes it. nvml, handle: the library and the device's handle in it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._instant_power = self._power_field() is not None

    def read(self, with_processes: bool) -> Reading:
        """The device now; what it does not support is None."""
        energy_j, at_s = self.energy_j(), time.monotonic()
        return Reading(
            at_s=at_s,
            sm_clock_mhz=self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            power_w=self._power_w(),
            energy_j=energy_j,
            temperature_c=self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            throttle_reasons=self._throttle_reasons(),
            processes=self._processes() if with_processes else None,
            runnable=runnable_tasks(),
        )

    def energy_j(self) -> float | None:
        """What the device has used since its driver was loaded."""
        energy_mj = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if energy_mj is None else energy_mj / 1e3

    def _ask(self, question: str, *arguments: Any) -> Any:
        return asked((self._nvml, self._handle), question, *arguments)

    def _power_w(self) -> float | None:
        """Power now; from Ampere on the plain question is answered with the mean of a second."""
        milliwatts = self._power_field() if self._instant_power else self._ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1e3

    def _power_field(self) -> int | None:
        values = self._ask("nvmlDeviceGetFieldValues", [getattr(self._nvml, "NVML_FI_DEV_POWER_INSTANT", 186)])
        if not values or values[0].nvmlReturn != self._nvml.NVML_SUCCESS:
            return None
        return int(values[0].value.uiVal)

    def _throttle_reasons(self) -> frozenset[str] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else frozenset(name for bit, name in THROTTLE_REASONS.items() if bits & bit)

    def _processes(self) -> dict[int, int | None] | None:
        found = self._ask("nvmlDeviceGetComputeRunningProcesses")
        return None if found is None else {process.pid: process.usedGpuMemory for process in found}


Source = HostSource | NvmlSource
"""What a `Sampler` asks."""


def watch(stack: ExitStack, uuid: str | None) -> Watch:
    """Watches the CUDA device `uuid`, or without one, or a driver, the machine's load, until `stack` ends."""
    opened = None if uuid is None else stack.enter_context(device_handle(uuid))
    if opened is not None:
        return stack.enter_context(Sampler(NvmlSource(*opened)))
    if runnable_tasks() is None:
        return Unwatched()
    return stack.enter_context(Sampler(HostSource(), HOST_PERIOD_S, all_every=1))


def why_dropped(readings: Iterable[Reading]) -> str | None:
    """Why a window with these readings is no measurement of a method, None where it is one.

    A low clock is no reason: a GPU that works is at its power cap, and what a method's own power makes of the clock is
    part of how fast the method is.
    """
    slowdowns = SLOWDOWNS & {reason for reading in readings for reason in reading.throttle_reasons or ()}
    return ", ".join(sorted(slowdowns)) or None


def at_power_cap(readings: Iterable[Reading]) -> bool:
    """Whether power held the clock back, so that who ran before may decide how fast a window begins."""
    return any(POWER_CAP in (reading.throttle_reasons or ()) for reading in readings)


@dataclass(frozen=True)
class Stretch:
    """One measured window: when it was, by `time.monotonic`, and the readings of that time.

    own_from_s: since when the device had done this worker's steps and no other work.
    """

    began_s: float
    ended_s: float
    readings: Sequence[Reading] = ()
    own_from_s: float | None = None

    @property
    def own_readings(self) -> Sequence[Reading]:
        """Those within the window; those next to it where it is so short that none of the clock fell into it."""
        within = [reading for reading in self.readings if self.began_s <= reading.at_s <= self.ended_s]
        return within if any(reading.sm_clock_mhz is not None for reading in within) else self.readings


def clock_depends_on_who_runs(stretches: Sequence[Stretch]) -> bool:
    """Whether the median clocks of different workers' windows differ by more than clocks do by themselves."""
    clocks = [_given(stretch.readings, lambda reading: reading.sm_clock_mhz) for stretch in stretches]
    medians = [statistics.median(each) for each in clocks if each]
    return bool(medians) and max(medians) > SAME_CLOCK * min(medians)


def summary(
    stretches: Sequence[Stretch],
    interactions: float | None = None,
    pid: int | None = None,
    residents: int = 1,
    threads: int = 1,
) -> Telemetry:
    """What a worker's windows looked like from outside.

    interactions: item slots that all windows together stepped on; pid: the worker's; residents: processes of this run
    that were on the device; threads: what the worker computes with.
    """
    readings = [reading for stretch in stretches for reading in stretch.own_readings]
    clocks = _given(readings, lambda reading: reading.sm_clock_mhz)
    power = _given(readings, lambda reading: reading.power_w)
    heat = _given(readings, lambda reading: reading.temperature_c)
    reasons = _given(readings, lambda reading: reading.throttle_reasons)
    seen = [reading for stretch in stretches for reading in stretch.readings]
    processes = _given(seen, lambda reading: reading.processes)
    counted_w = _counted_power_w(stretches)
    seconds = sum(stretch.ended_s - stretch.began_s for stretch in stretches)
    energy_j = None if counted_w is None else counted_w * seconds
    own = [each.get(pid or 0) for each in processes]
    return Telemetry(
        sm_clock_mhz=Spread(min=min(clocks), median=statistics.median(clocks), max=max(clocks)) if clocks else None,
        power_w=statistics.fmean(power) if power else None,
        energy_j=energy_j,
        energy_per_1000_interactions_j=1000 * energy_j / interactions if energy_j and interactions else None,
        temperature_c=max(heat) if heat else None,
        throttle_reasons=tuple(sorted(frozenset().union(*reasons))) if reasons else None,
        foreign_processes=_foreign(processes, residents),
        process_memory_bytes=max(filter(None, own), default=None),
        load=_load(stretches, threads),
    )


def _given(readings: Iterable[Reading], field: Callable[[Reading], Any]) -> list[Any]:
    return [value for value in map(field, readings) if value is not None]


def _load(stretches: Sequence[Stretch], threads: int) -> float | None:
    """Others' tasks per core: all that are neither the worker's threads nor the one that looks."""
    within = [r for stretch in stretches for r in stretch.readings if stretch.began_s <= r.at_s <= stretch.ended_s]
    runnable = _given(within, lambda reading: reading.runnable)
    return max(0.0, statistics.fmean(runnable) - threads - 1) / (os.cpu_count() or 1) if runnable else None


def _foreign(processes: Sequence[dict[int, int | None]], residents: int) -> int | None:
    """Most processes that are none of ours: by count, since in a container the driver numbers them otherwise."""
    counts = [len(seen) - residents for seen in processes]
    return max(0, *counts) if counts and max(counts) >= 0 else None


def _counted_power_w(stretches: Sequence[Stretch]) -> float | None:
    """Mean power within the windows by the energy counter, None where it is not known to `ENERGY_ERROR`.

    The counter changes every 100 ms by all that was used since. What lies between two of its changes within a window,
    both so long after the worker began that they hold nothing of the one before, is this worker's use in exactly that
    time. A change happened at some moment between two looks: the error of its date is that of a uniform value.
    """
    joules = seconds = variance = 0.0
    for stretch in stretches:
        own_from_s = stretch.began_s if stretch.own_from_s is None else stretch.own_from_s
        edges = _edges(stretch.readings, max(stretch.began_s, own_from_s + COUNTER_LAG_S), stretch.ended_s)
        if len(edges) >= 2:
            (first_s, first_gap_s, first_j), *_, (last_s, last_gap_s, last_j) = edges
            joules += last_j - first_j
            seconds += last_s - first_s
            variance += (first_gap_s**2 + last_gap_s**2) / 12
    if not seconds or 2 * math.sqrt(variance) > ENERGY_ERROR * seconds:
        return None
    return joules / seconds


def _edges(readings: Sequence[Reading], from_s: float, until_s: float) -> list[tuple[float, float, float]]:
    """Changes of the counter within this time: when, known to how many seconds, and what it was from then on."""
    known = [(r.at_s, r.energy_j) for r in readings if r.energy_j is not None and from_s <= r.at_s <= until_s]
    return [((a + b) / 2, b - a, after) for (a, before), (b, after) in pairwise(known) if after != before]
