"""Items that a user has not met, drawn from the whole catalogue or a part of it, every set of them as likely.

I items of the catalogue, P items of the pool.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.workloads._log.interaction_log import InteractionLog

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KEPT_USERS = 1 << 15
"""Users whose items a pool remembers."""


class Pool:
    """The items of a log that negatives are drawn from, given as bool [I]."""

    def __init__(self, log: InteractionLog, members: Bools):
        self._log = log
        self._items = np.flatnonzero(members)
        self._rank = np.where(members, np.cumsum(members) - 1, -1)
        self._shifted = lru_cache(maxsize=KEPT_USERS)(self._find)

    def draw(self, rng: np.random.Generator, users: Ints, number: int) -> tuple[Ints, Bools]:
        """Per user [B] `number` different items that the user never met [B, number], and which of them there are.

        A user who has met nearly all of the pool has fewer left; what is missing is marked False, at the end.
        """
        shifted = [self._shifted(user) for user in users.tolist()]
        drawn = distinct(rng, len(self._items) - np.asarray([len(row) for row in shifted], dtype=np.int64), number)
        there = drawn >= 0
        before = [met.searchsorted(row, side="right") for met, row in zip(shifted, drawn, strict=True)]
        drawn += np.asarray(before, dtype=np.int64).reshape(drawn.shape)
        return (self._items[np.where(there, drawn, 0)] if len(self._items) else np.zeros_like(drawn)), there

    def fewest_left(self) -> int:
        """How many items of the pool the user has left who has met the most of it."""
        most = 0
        lengths = np.diff(self._log.starts)
        for user in np.argsort(-lengths, kind="stable"):
            if lengths[user] <= most:
                break
            most = max(most, len(self._find(int(user))))
        return len(self._items) - most

    def _find(self, user: int) -> Ints:
        """Of each item that the user met, sorted: how many of the pool before it the user did not meet.

        The n-th item not met is the one after n others and after all met ones whose number here is n at most.
        """
        ranks = self._rank[self._log.items_of(user)]
        ranks = ranks[ranks >= 0]
        return ranks - np.arange(len(ranks))


def distinct(rng: np.random.Generator, choices: Ints, number: int) -> Ints:
    """In each row [B, number], that many different numbers below `choices` [B], every such draw as likely.

    The next number is drawn among those that are left, then counted past the ones drawn before it. Where nothing is
    left, it is -1.
    """
    found = np.full((len(choices), number), -1, dtype=np.int64)
    for column in range(number):
        left = choices - column
        drawn = rng.integers(np.maximum(left, 1))
        for earlier in np.sort(found[:, :column], axis=1).T:
            drawn += drawn >= earlier
        found[:, column] = np.where(left > 0, drawn, -1)
    return found
