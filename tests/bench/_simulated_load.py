"""Runs on two processor cores whose load changes: what block values, and what readings of the load, they would give.

So many tasks of others, one to six, want the cores, and change after times that are exponentially distributed. They
slow e2e down by time-sharing and the method by less, so that the speed-up itself moves with the load: from run to run
between 2.6 and 3.6, as was seen. Windows alternate (AB, BA, ...) in the last part of each block, after its processes
were started.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.results.analysis import stats

CORES, FEWEST, MOST = 2, 1, 6
BLOCK_S, MEASURED, ROUNDS = 12.0, 0.6, 8
"""Seconds of a block, the part of it in which windows are taken, and windows of each line."""
SHARE = 0.35
"""How much more e2e suffers from load than the method does, in ln."""
WINDOW, PROCESS = 0.06, 0.014
"""Standard deviations of a window, and of a block's processes, in ln."""
READING = 0.3
"""Standard deviation of the tasks that are read in a block, around those that were there."""


@dataclass(frozen=True)
class Runs:
    """values, loads: ln(e2e / method) and others' tasks per core of every run and block [R, blocks]."""

    values: np.ndarray
    loads: np.ndarray

    def estimates(self, *, blocks: int | None = None, slower: float = 0.0, told: bool = True) -> list[stats.Estimate]:
        """Of each run's first blocks, by the harness's function; slower: in ln; told: whether the load was read."""
        rows = zip((self.values - slower).tolist(), self.loads.tolist(), strict=True)
        return [stats.over_blocks(row[:blocks], loads[:blocks] if told else ()) for row, loads in rows]


def runs(
    amount: int, blocks: int, dwell_s: float, seed: int, *, share: float = SHARE, reading: float = READING
) -> Runs:
    """Independent runs; dwell_s: how long a load lasts in the mean."""
    rng = np.random.default_rng(seed)
    order = np.array([line for number in range(ROUNDS) for line in ((0, 1) if number % 2 == 0 else (1, 0))])
    at_s = BLOCK_S * (1 - MEASURED) + np.arange(len(order)) * BLOCK_S * MEASURED / len(order)
    at_s = (np.arange(blocks)[:, None] * BLOCK_S + at_s).ravel()
    tasks = np.empty((amount, len(at_s)))
    for run in range(amount):
        episodes = np.cumsum(rng.exponential(dwell_s, size=int(20 + 4 * at_s[-1] / dwell_s)))
        tasks[run] = rng.integers(FEWEST, MOST + 1, size=len(episodes) + 1)[np.searchsorted(episodes, at_s)]
    tasks = tasks.reshape(amount, blocks, len(order))
    slowness = np.log1p(tasks / CORES) * np.where(order == 0, 1 + share, 1.0)
    slowness += WINDOW * rng.standard_normal(slowness.shape)
    pairs = slowness[..., order == 0] - slowness[..., order == 1]
    values = np.median(pairs, axis=2) + PROCESS * rng.standard_normal((amount, blocks))
    read = np.maximum(0.0, tasks.mean(axis=2) + reading * rng.standard_normal((amount, blocks)))
    return Runs(values, read / CORES)
