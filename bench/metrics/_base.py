"""Scores with what was right, in the form that every metric reads.

R rankings of C candidates each. A ranking is one impression of a ranking task; in response prediction all predictions
of a split are a single ranking, since its metrics compare every right answer with every wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from bench import registry
from bench.workloads._base import Task

PACKAGE = "bench.metrics"


@dataclass(frozen=True, eq=False)
class Rankings:
    """R rankings of equally many candidates: `relevant` bool [R, C], `scores` float64 [R, C]."""

    relevant: NDArray[np.bool_]
    scores: NDArray[np.float64]

    def decidable(self) -> Rankings:
        """The rankings that hold something right and something wrong: the others have no order to be judged."""
        some = self.relevant.any(axis=1) & ~self.relevant.all(axis=1)
        return Rankings(self.relevant[some], self.scores[some])


@dataclass(frozen=True, eq=False)
class Judged:
    """A split scored: `warm` rankings are of items that training has met, `cold` ones of items that it has not."""

    warm: tuple[Rankings, ...]
    cold: tuple[Rankings, ...]


def load(name: str) -> ModuleType:
    """The metric registered as `name`; raises registry.UnknownName (a ValueError)."""
    return registry.load(PACKAGE, name)


def measured(judged: Judged, task: Task) -> dict[str, float | None]:
    """Every registered metric of the task."""
    metrics = {name: load(name) for name in registry.names(PACKAGE)}
    return {name: metric.value(judged) for name, metric in metrics.items() if task in metric.TASKS}


def mean_over_rankings(
    rankings: Iterable[Rankings], mean: Callable[[NDArray[np.bool_], NDArray[np.float64]], float]
) -> float | None:
    """The mean over all decidable rankings, of any number of candidates; None where there are none.

    mean: of relevance [R, C] and scores [R, C], over their R.
    """
    parts = [part for part in (each.decidable() for each in rankings) if len(part.scores)]
    counts = [len(part.scores) for part in parts]
    values = [float(mean(part.relevant, part.scores)) for part in parts]
    return float(np.average(values, weights=counts)) if parts else None
