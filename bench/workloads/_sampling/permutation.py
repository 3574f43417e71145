"""A random order of 0 .. n - 1 that is computed where it is asked for and stored nowhere.

A Feistel network is a bijection of 2^(2h) numbers; a number that it sends beyond n goes through again until it comes
back below (cycle walking), which leaves a bijection of n numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ROUNDS = 6
_MIX = np.uint64(0xBF58476D1CE4E5B9)
"""The odd constant of SplitMix64 (Steele, Lea and Flood, 2014)."""


class Permutation:
    """A permutation of 0 .. n - 1, the same for the same seed; maps any positions [m] in time of order m."""

    def __init__(self, n: int, seed: Sequence[int]):
        self._n = n
        self._half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
        self._keys = np.random.default_rng(seed).integers(2**63, size=ROUNDS, dtype=np.uint64)

    def __call__(self, positions: Ints) -> Ints:
        """Where these positions, all below n, are sent."""
        found = self._once(positions.astype(np.uint64))
        while len(beyond := np.flatnonzero(found >= np.uint64(self._n))):
            found[beyond] = self._once(found[beyond])
        return found.astype(np.int64)

    def _once(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        low = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = values >> self._half, values & low
        for key in self._keys:
            mixed = (right + key) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
            left, right = right, left ^ ((mixed >> np.uint64(32)) & low)
        return (left << self._half) | right
