"""A simulated machine that measures: what times would processes on it give, and what would a gate make of them?

Everything is a logarithm of seconds. Two lines, e2e and a method, take turns in a block's rounds (AB, BA, AB, ...),
tick by tick through all blocks of a series: the machine drifts (a random walk), a co-tenant comes and goes (steps of
random height, in the middle of a block too), either line of a block is a fresh process that is luckier or less lucky
as a whole, reacts to the co-tenant in its own way, and each window has noise and sometimes a spike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bench.results.analysis import decisions, stats
from bench.results.schema import Record

ROUNDS = 10
Verdicts = tuple[decisions.Verdict, ...]


@dataclass(frozen=True)
class World:
    """Standard deviations, sizes and rates, in ln seconds and per tick; a tick is one measured window."""

    process: float
    sample: float
    drift: float
    """Of the random walk, from one block to the next."""
    tenant: float
    """Mean slowdown by the co-tenant."""
    tenant_rate: float
    """How likely it comes, or goes, in a tick."""
    reaction: float
    """How differently two processes suffer from it."""
    spike: float
    spike_rate: float


STEADY = World(process=0.004, sample=0.005, drift=0.003, tenant=0.05, tenant_rate=0.002, reaction=0.02, spike=0.1,
               spike_rate=0.01)  # fmt: skip
"""A GPU of one's own: a block's value has a standard deviation of 0.6 %."""
SHARED = World(process=0.005, sample=0.02, drift=0.01, tenant=0.20, tenant_rate=0.01, reaction=0.03, spike=0.4,
               spike_rate=0.02)  # fmt: skip
"""Processor cores shared with others: 1.5 %."""
ROUGH = World(process=0.012, sample=0.03, drift=0.02, tenant=0.25, tenant_rate=0.02, reaction=0.05, spike=0.5,
              spike_rate=0.03)  # fmt: skip
"""Processor cores among busy neighbours: 3 %, so that 20 blocks just reach the half-width asked for."""
WORLDS = {"steady": STEADY, "shared": SHARED, "rough": ROUGH}


def turns(rounds: int = ROUNDS) -> np.ndarray:
    """Which line, 0 for e2e and 1 for the method, has each tick of a block: AB, BA, AB, ..."""
    return np.array([line for round_ in range(rounds) for line in ((0, 1) if round_ % 2 == 0 else (1, 0))])


def times(world: World, rng: np.random.Generator, series: int, blocks: int, rounds: int = ROUNDS) -> np.ndarray:
    """ln seconds (series, blocks, rounds, 2); both lines have the same true time, which is 1."""
    line = turns(rounds)
    shape, ticks = (series, blocks, len(line)), blocks * len(line)
    walk = rng.standard_normal((series, ticks), np.float32) * np.float32(world.drift / math.sqrt(len(line)))
    episode = np.cumsum(rng.random((series, ticks), np.float32) < world.tenant_rate, axis=1)
    heights = rng.standard_exponential((series, int(episode.max()) + 1), np.float32) * np.float32(world.tenant)
    heights[:, ::2] = 0  # the co-tenant comes, and goes
    tenant = np.take_along_axis(heights, episode, axis=1).reshape(shape)
    tenant *= (1 + world.reaction * rng.standard_normal((series, blocks, 2), np.float32))[:, :, line]
    logs = np.cumsum(walk, axis=1).reshape(shape) + tenant
    logs += (world.process * rng.standard_normal((series, blocks, 2), np.float32))[:, :, line]
    logs += np.float32(world.sample) * rng.standard_normal(shape, np.float32)
    spikes = rng.random(shape, np.float32) < world.spike_rate
    logs[spikes] += np.float32(world.spike) * rng.standard_exponential(int(spikes.sum()), np.float32)
    return np.stack([logs[:, :, line == each] for each in (0, 1)], axis=-1)


def block_values(logs: np.ndarray) -> np.ndarray:
    """(series, blocks): what `stats.block_values` gives for them, all at once (a test holds the two together)."""
    return np.median(logs[..., 0] - logs[..., 1], axis=2).astype(float)


def values(world: World, rng: np.random.Generator, series: int, blocks: int) -> np.ndarray:
    """Block values (series, blocks), made in portions that fit a cache."""
    portions = [min(200, series - start) for start in range(0, series, 200)]
    return np.concatenate([block_values(times(world, rng, portion, blocks)) for portion in portions])


def stopped(row: Sequence[float], **rule: float) -> int:
    """How many of the blocks are measured before the rule stops."""
    return next(amount for amount in range(1, len(row) + 1) if stats.enough(row[:amount], **rule))


def records(
    logs: np.ndarray, lost: np.ndarray | None = None, *, canary: bool = False, **changes: object
) -> list[Record]:
    """The records (blocks, rounds, 2) would leave behind; lost (blocks, rounds) are dropped rounds.

    With `canary` the second line is e2e too.
    """
    return [
        Record(
            **{
                "case": {"workload": "simulated"},
                "method": "e2e" if line == 0 or canary else "method",
                "replica": line if canary else 0,
                "engine": "eager",
                "block": block,
                "exactness": "exact",
                "outcome": "ok",
                "schedule": "interleaved",
                "samples_s": tuple(math.exp(logs[block, each, line]) for each in kept),
                "rounds": tuple(kept),
            }
            | changes
        )
        for block in range(len(logs))
        for kept in [[each for each in range(logs.shape[1]) if lost is None or not lost[block, each]]]
        for line in (0, 1)
    ]


def moved(estimate: stats.Estimate, by: float) -> stats.Estimate:
    """The same blocks around another ratio."""
    return replace(estimate, log_ratio=estimate.log_ratio + by, low=estimate.low + by, high=estimate.high + by)


def verdicts(differences: Sequence[decisions.Difference], tolerance: float) -> Verdicts:
    """What the gate makes of them."""
    return tuple(each.verdict for each in decisions.decide([(each, tolerance) for each in differences]))


@dataclass(frozen=True)
class Gates:
    """Many runs of a gate over `cases`, each against a reference run of its own; a loss is planted when judging.

    Losses shift a case's blocks without changing their spread, so that one simulation serves every loss.
    """

    world: World
    runs: int
    cases: int = 48
    reference_blocks: int = stats.LEAST_BLOCKS
    """The least that a reference run measures."""
    seed: int = 0

    @cached_property
    def _rows(self) -> list[list[list[float]]]:
        """runs x cases x blocks, enough of them to double the most."""
        rng = np.random.default_rng((self.seed, 1))
        made = values(self.world, rng, self.runs * self.cases, 2 * stats.MOST_BLOCKS)
        return made.reshape(self.runs, self.cases, -1).tolist()

    @cached_property
    def _reference(self) -> list[stats.Estimate]:
        rng = np.random.default_rng((self.seed, 2))
        rows = values(self.world, rng, self.runs * self.cases, stats.MOST_BLOCKS).tolist()
        return [stats.over_blocks(row[: stopped(row, least=self.reference_blocks)]) for row in rows]

    def reference(self, run: int) -> list[stats.Estimate]:
        """The estimates of the run's reference run, case by case."""
        return self._reference[run * self.cases : (run + 1) * self.cases]

    @cached_property
    def now(self) -> list[list[stats.Estimate]]:
        """The estimates of the gated runs, as first measured."""
        most = stats.MOST_BLOCKS
        return [[stats.over_blocks(row[: stopped(row[:most])]) for row in run] for run in self._rows]

    @cached_property
    def _doubled(self) -> dict[tuple[int, int], stats.Estimate]:
        return {}

    def doubled(self, run: int, case: int) -> stats.Estimate:
        """The estimate with as many blocks again."""
        if (run, case) not in self._doubled:
            amount = 2 * self.now[run][case].blocks
            self._doubled[run, case] = stats.over_blocks(self._rows[run][case][:amount])
        return self._doubled[run, case]

    def verdicts(
        self, loss: float, lost: int, tolerance: float, *, days: float = 0.0
    ) -> list[tuple[Verdicts, Verdicts]]:
        """Per run the verdicts as first measured, and after inconclusive cases were measured twice as long.

        The first `lost` cases lost this part of their speed. days: standard deviation of what else changed in every
        case between the reference's day and now, which no error bar knows of.
        """
        shift = np.random.default_rng((self.seed, 3)).normal(0, 1, (self.runs, self.cases)) * days
        shift[:, :lost] += math.log1p(-loss)
        found = []
        for run, by in enumerate(shift.tolist()):
            now = [moved(each, delta) for each, delta in zip(self.now[run], by, strict=True)]
            first = self._decided(now, run, tolerance)
            again = [
                moved(self.doubled(run, case), by[case]) if first[case] == "inconclusive" else now[case]
                for case in range(self.cases)
            ]
            found.append((first, self._decided(again, run, tolerance)))
        return found

    def differences(self, run: int, now: Sequence[stats.Estimate]) -> list[decisions.Difference]:
        """Of these estimates to the run's reference."""
        return [decisions.difference(*pair) for pair in zip(now, self.reference(run), strict=True)]

    def _decided(self, now: Sequence[stats.Estimate], run: int, tolerance: float) -> Verdicts:
        return verdicts(self.differences(run, now), tolerance)
