"""Whole numbers with a lognormal law and an exact sum: how long histories and texts are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def sizes(rng: np.random.Generator, number: int, total: int, sigma: float, least: int, most: int) -> Ints:
    """`number` sizes of `least` .. `most` in random order that sum to `total`: quantiles of a lognormal law.

    sigma: standard deviation of their logarithm, where no bound holds them. Raises ValueError where no such sizes are.
    """
    from scipy.special import ndtri

    if not number * least <= total <= number * most:
        raise ValueError(f"{number} sizes of {least} to {most} cannot sum to {total}")
    shape = sigma * ndtri((np.arange(number) + 0.5) / number)

    def scaled(log_scale: float) -> NDArray[np.float64]:
        return np.clip(np.exp(log_scale + shape), least, most)

    low, high = np.log(max(least, 1e-9)) - shape[-1] - 1, np.log(most) - shape[0] + 1
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle).sum() <= total else (low, middle)
    exact = scaled(low)
    found = np.floor(exact).astype(np.int64)
    rest = total - int(found.sum())
    nearest = np.argsort(found - exact, kind="stable")  # the largest remainders are rounded up
    found[nearest[found[nearest] < most][:rest]] += 1
    while rest := total - int(found.sum()):  # where bounds left fewer to round than there are to give
        found[np.flatnonzero(found < most)[:rest]] += 1
    return rng.permuted(found)
