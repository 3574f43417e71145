"""A simulated GPU at its power cap, its energy counter, and what paired blocks would measure on it.

Power follows load and clock. A controller sees power through a sensor that takes 0.13 s to 90 % of a step, and moves
the clock until the sensor shows the cap. Once a second, in step with nothing, the driver cuts the clock below what the
cap allows; so did an H200's under bert-base (steps of 166 ms, two of 178 ms in each second). Between turns the device
idles: the sensor falls, the clock rises, and the next worker begins on a clock that its own power does not allow. Each
step's time follows from the clock.

Many runs are simulated at once: every quantity is an array over runs [R], each run with a time of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.machine.telemetry import Reading, Stretch
from bench.measure import clock
from bench.measure.clock import Window
from bench.results.schema import Record
from bench.running.counterbalance import in_round

CAP_W, IDLE_W = 700.0, 120.0
HIGHEST_MHZ, LOWEST_MHZ = 1980.0, 600.0
SENSOR_S = 0.13 / math.log(10)
GAIN = 3.6
"""ln MHz per second and relative distance from the cap: settles within some 150 ms."""
NOISE, NOISE_S = 0.04, 0.04
"""Of the power that a step draws, since texts differ: relative, and how long it lasts."""
PROCESS = 0.002
"""How differently fast two processes of one line are."""
CUT_EVERY_S, CUT = 1.0, 0.9
"""Once a second the driver cuts the clock, by how much; the controller brings it back."""
HANDOVER_S = (0.03, 0.06)
SLICES = 6
"""Of a step, between which the controller acts."""
COUNTER_S = (0.092, 0.102)
"""Between two changes of the energy counter."""


@dataclass(frozen=True)
class Line:
    """A method: seconds of a step at the highest clock, and the clock at which it draws what the cap allows."""

    name: str
    fastest_s: float
    settled_mhz: float
    replica: int = 0

    def power_w(self, mhz: np.ndarray) -> np.ndarray:
        """What it draws."""
        return IDLE_W + (CAP_W - IDLE_W) * (mhz / self.settled_mhz) ** 2.4


E2E = Line("e2e", 0.140, 1600.0)
CANARY = Line("e2e", 0.140, 1600.0, replica=1)
SINGLE_STEP = Line("single_step", 0.078, 1720.0)
LINES = (E2E, CANARY, SINGLE_STEP)


@dataclass(frozen=True)
class Protocol:
    """How windows are taken: the settings of a run of the same names, and steps at least."""

    rounds: int
    lead_in_s: float
    least_s: float
    window_s: float = 0.1
    window_steps: None = None
    blocks: int = 6


@dataclass
class Device:
    """The state of many runs' GPUs. trace: time and energy used at every moment that was looked at, where asked for."""

    rng: np.random.Generator
    runs: int
    traced: bool = False
    trace: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at_s = np.zeros(self.runs)
        self.next_cut_s = self.rng.uniform(0.0, CUT_EVERY_S, self.runs)
        self.energy_j = np.zeros(self.runs)
        self.mhz = np.full(self.runs, HIGHEST_MHZ)
        self.sensed_w = np.full(self.runs, IDLE_W)
        self.noise = np.zeros(self.runs)

    def idle(self, seconds: np.ndarray) -> None:
        """Nothing runs."""
        for _ in range(4):
            self._pass(seconds / 4, np.full(self.runs, IDLE_W))

    def step(self, line: Line, slowness: np.ndarray) -> None:
        """One step of a line whose process is so much slower than others, in parts."""
        for _ in range(SLICES):
            seconds = line.fastest_s / SLICES * (HIGHEST_MHZ / self.mhz) * (1 + slowness)
            self._pass(seconds, line.power_w(self.mhz) * (1 + self.noise))

    def _pass(self, seconds: np.ndarray, power_w: np.ndarray) -> None:
        self.at_s = self.at_s + seconds
        self.energy_j = self.energy_j + power_w * seconds
        kept = np.exp(-seconds / NOISE_S)
        self.noise = kept * self.noise + NOISE * np.sqrt(1 - kept**2) * self.rng.standard_normal(self.runs)
        self.sensed_w = power_w + (self.sensed_w - power_w) * np.exp(-seconds / SENSOR_S)
        moved = np.exp(np.clip(GAIN * seconds * (CAP_W - self.sensed_w) / CAP_W, -0.2, 0.2))
        cut = self.at_s >= self.next_cut_s
        self.next_cut_s = np.where(cut, self.next_cut_s + CUT_EVERY_S, self.next_cut_s)
        moved = np.where(cut & (self.sensed_w > CUT * CAP_W), CUT * moved, moved)
        self.mhz = np.clip(self.mhz * moved, LOWEST_MHZ, HIGHEST_MHZ)
        if self.traced:
            self.trace.append((self.at_s, self.energy_j))


@dataclass(frozen=True)
class Turn:
    """One window of every run [R]: its place, when it and its lead-in began, when it ended, and what it used."""

    block: int
    round: int
    line: Line
    own_from_s: np.ndarray
    began_s: np.ndarray
    ended_s: np.ndarray
    steps: int
    energy_j: np.ndarray


def turns(
    protocol: Protocol, device: Device, lines: Sequence[Line] = LINES, slower: Callable[[Line], float] = lambda _: 0.0
) -> list[Turn]:
    """All windows of runs of one case, in the order and of the lengths that the harness takes them."""
    taken = []
    for block in range(protocol.blocks):
        slowness = {line: slower(line) + PROCESS * device.rng.standard_normal(device.runs) for line in lines}
        for number in range(protocol.rounds):
            for line in in_round(lines, block + number):
                pace = [Window(1, line.fastest_s * HIGHEST_MHZ / line.settled_mhz)]
                device.idle(device.rng.uniform(*HANDOVER_S, device.runs))
                own_from_s = device.at_s
                for _ in range(clock.lead_in_units(pace, 1, protocol.lead_in_s)):
                    device.step(line, slowness[line])
                began_s, before_j = device.at_s, device.energy_j
                steps = clock.units_per_window(pace, protocol, 1, protocol.least_s)
                for _ in range(steps):
                    device.step(line, slowness[line])
                used_j = device.energy_j - before_j
                taken.append(Turn(block, number, line, own_from_s, began_s, device.at_s, steps, used_j))
    return taken


def records(taken: Sequence[Turn], run: int) -> list[Record]:
    """What one of the runs would write."""
    found: dict[tuple[int, Line], list[Turn]] = {}
    for turn in taken:
        found.setdefault((turn.block, turn.line), []).append(turn)
    return [
        Record(
            case={"workload": "simulated"},
            method=line.name,
            replica=line.replica,
            engine="fast",
            block=block,
            exactness="exact",
            outcome="ok",
            schedule="interleaved",
            samples_s=tuple(float(turn.ended_s[run] - turn.began_s[run]) / turn.steps for turn in own),
            rounds=tuple(turn.round for turn in own),
        )
        for (block, line), own in found.items()
    ]


def stretches(taken: Sequence[Turn], device: Device, run: int, period_s: float = 0.005) -> list[Stretch]:
    """One run's windows with what a reader of the energy counter sees of them: looks `period_s` or a bit more apart."""
    times, joules = (np.array([float(each[place][run]) for each in device.trace]) for place in (0, 1))
    changes = np.cumsum(device.rng.uniform(*COUNTER_S, int(times[-1] / COUNTER_S[0]) + 2))
    counted = np.interp(changes, times, joules)
    looks = np.cumsum(period_s * device.rng.uniform(1.0, 1.3, int(times[-1] / period_s) + 2))
    place = np.searchsorted(changes, looks, side="right") - 1
    seen = np.where(place >= 0, counted[np.maximum(place, 0)], 0.0)
    found = []
    for turn in taken:
        began_s, ended_s = float(turn.began_s[run]), float(turn.ended_s[run])
        within = (looks > began_s - period_s) & (looks < ended_s + period_s)
        readings = [Reading(float(a), energy_j=float(e)) for a, e in zip(looks[within], seen[within], strict=True)]
        found.append(Stretch(began_s, ended_s, readings, float(turn.own_from_s[run])))
    return found
