"""What moves from block to block makes blocks less than independent evidence: load, and what nobody reads.

Load. Others' tasks that want a processor core slow e2e and a method by different factors, so that a speed-up changes
with the load, by a third between one and six tasks on two cores. Block values are fitted by a straight line over
x = ln(1 + tasks of others per core), which is 0 on an idle machine and by which time-sharing slows a task down.
- A run's own interval covers the speed-up at every load that it met: half of the line's rise from the least to the
  most counts as a standard error, which no number of blocks divides.
- Two runs are compared at one load, by the slope that both have in common; where their loads lie too far apart for
  either to say what the other's would do, not at all.

What nobody reads. Where neighbouring blocks are more alike than 0.2 % of independent ones are, a run counts as one
block. The measure is von Neumann's ratio of the mean squared successive difference to the variance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from scipy.special import betainc

LEAST_BLOCKS: Final = 4
"""Fewer show neither a line nor a drift."""
MOVED: Final = 0.2
"""The range of x within which loads are one: a quarter of a task per core on an idle machine."""
APART: Final = 3.0
"""Standard deviations of x within the runs, beyond which one run's line says nothing of the other's load."""
LEVEL: Final = 0.002
"""How often independent blocks are taken for drifting."""


@dataclass(frozen=True)
class Load:
    """How block values go with their blocks' load.

    mean, low, high: of x; squares, products, values: sums over blocks of x's squared deviations, of their products
    with those of the values, and of the values' own squares; effective_blocks: as how many independent blocks counts
    what the line leaves.
    """

    blocks: int
    mean: float
    low: float
    high: float
    squares: float
    products: float
    values: float
    effective_blocks: float

    @property
    def slope(self) -> float:
        """Of the straight line, 0 where the load never changed."""
        return self.products / self.squares if self.squares > 0 else 0.0

    @property
    def variance(self) -> float:
        """Of a value at any load that was met: what the line leaves, which blocks average, and half of its rise."""
        left = max(0.0, self.values - self.slope * self.products) / (self.blocks - 2)
        return left / self.effective_blocks + (self.slope * (self.high - self.low) / 2) ** 2

    def __str__(self) -> str:
        low, high = (f"{math.expm1(each):.1f}" for each in (self.low, self.high))
        return low if low == high else f"{low} to {high}"


def fit(values: Sequence[float], tasks: Sequence[float | None]) -> Load | None:
    """The line over blocks in their order; tasks: of others, per core. None where one is not known, or for too few."""
    known = [each for each in tasks if each is not None]
    amount = len(values)
    if len(known) < amount or amount < LEAST_BLOCKS:
        return None
    x = [math.log1p(each) for each in known]
    mean, centre = math.fsum(x) / amount, math.fsum(values) / amount
    away = [(a - mean, b - centre) for a, b in zip(x, values, strict=True)]
    squares = math.fsum(a * a for a, _ in away)
    products = math.fsum(a * b for a, b in away)
    slope = products / squares if squares > 0 else 0.0
    return Load(
        blocks=amount,
        mean=mean,
        low=min(x),
        high=max(x),
        squares=squares,
        products=products,
        values=math.fsum(b * b for _, b in away),
        effective_blocks=effective_blocks([b - slope * a for a, b in away]),
    )


def moved(*loads: Load) -> bool:
    """Whether the load differed between blocks, of one run or of several."""
    return max(load.high for load in loads) - min(load.low for load in loads) > MOVED


def effective_blocks(values: Sequence[float]) -> float:
    """All of them, or 1 where neighbours are so alike that something else moved."""
    amount = len(values)
    mean = math.fsum(values) / amount
    around = math.fsum((each - mean) ** 2 for each in values)
    if amount < LEAST_BLOCKS or around <= 0:
        return float(amount)
    ratio = math.fsum((b - a) ** 2 for a, b in pairwise(values)) / around
    # Of independent normal values it lies symmetrically around 2, between these ends, much as a beta variable does.
    reach = 2 * math.cos(math.pi / amount)
    variance = 4 * (amount - 2) / (amount**2 - 1) / (2 * reach) ** 2
    shape = (1 / (4 * variance) - 1) / 2
    chance = float(betainc(shape, shape, min(1.0, max(0.0, (ratio - 2 + reach) / (2 * reach)))))
    return 1.0 if chance <= LEVEL else float(amount)


def at_one_load(now: Load, then: Load, log_difference: float) -> tuple[float, float, float] | None:
    """The difference that two runs would have at one load: ln, its standard error, and degrees of freedom.

    One slope for both, since the same lines ran on the same machine. None where the loads lie too far apart.
    """
    squares, degrees = now.squares + then.squares, now.blocks + then.blocks - 3
    apart = now.mean - then.mean
    if squares <= 0 or abs(apart) > APART * math.sqrt(squares / (degrees + 1)):
        return None
    products = now.products + then.products
    slope = products / squares
    left = max(0.0, now.values + then.values - slope * products) / degrees
    share = 1 / now.effective_blocks + 1 / then.effective_blocks + apart**2 / squares
    return log_difference - slope * apart, math.sqrt(left * share), float(degrees)
