"""What of a log is trained on, what is scored, and which items training never meets.

U users, I items. Ranking splits every user's interactions by time, response prediction splits the users.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import HoldOut
from bench.workloads._log.interaction_log import InteractionLog

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Range = tuple[Ints, Ints]
"""Per user, the first place of the log that is meant and the one after the last."""

_COLD, _USERS = 10, 11
"""Streams of random numbers under one seed."""
CHUNK = 1 << 20
"""Interactions looked at at once."""


@dataclass(frozen=True, eq=False)
class Split:
    """cold bool [I]: items that training never meets; train, validation, test: places of the log, None: no such."""

    cold: Bools
    train: Range
    validation: Range | None = None
    test: Range | None = None


def by_time(log: InteractionLog, hold_out: HoldOut | None, seed: int) -> Split:
    """Each user's last interactions are for the test, those before them for validation; shares are rounded per user."""
    first, last = np.asarray(log.first_targets), np.asarray(log.starts[1:])
    if hold_out is None:
        return Split(np.zeros(log.item_count, dtype=bool), (first, last))
    tested, validated = (
        ((last - first) * share + 0.5).astype(np.int64) for share in (hold_out.test, hold_out.validation)
    )
    validated = np.minimum(validated, last - first - tested)
    test_start = last - tested
    start = test_start - validated
    return Split(
        cold_items(log, hold_out, seed),
        (first, start),
        _unless_empty(start, test_start),
        _unless_empty(test_start, last),
    )


def by_user(log: InteractionLog, hold_out: HoldOut | None, seed: int) -> Split:
    """Whole users are for the test or for validation, drawn at random."""
    first, last = np.asarray(log.first_targets), np.asarray(log.starts[1:])
    if hold_out is None:
        return Split(np.zeros(log.item_count, dtype=bool), (first, last))
    shuffled = np.random.default_rng([seed, _USERS]).permutation(log.users)
    ends = np.cumsum([round(log.users * share) for share in (hold_out.test, hold_out.validation)])
    tested, validated, trained = np.split(shuffled, ends)

    def of(users: Ints) -> Range:
        stop = first.copy()
        stop[users] = last[users]
        return first, stop

    return Split(
        cold_items(log, hold_out, seed), of(trained), _unless_empty(*of(validated)), _unless_empty(*of(tested))
    )


def cold_items(log: InteractionLog, hold_out: HoldOut, seed: int) -> Bools:
    """Which items are cold [I]: drawn among those that somebody met; raises ValueError where too few are left warm."""
    met = np.zeros(log.item_count, dtype=bool)
    for start in range(0, len(log.items), CHUNK):
        met[log.items[start : start + CHUNK]] = True
    return draw_cold(np.flatnonzero(met), log.item_count, hold_out, seed)


def draw_cold(candidates: Ints, item_count: int, hold_out: HoldOut, seed: int) -> Bools:
    """As many of `candidates` as are to be cold, as bool [I]; raises ValueError where too few are left warm."""
    asked = hold_out.cold_items
    number = asked if isinstance(asked, int) else round(asked * item_count)
    if number > len(candidates) // 2:
        raise ValueError(
            f"train.cold_items = {asked} is more than half of the {len(candidates)} items that the log knows; lower it"
        )
    cold = np.zeros(item_count, dtype=bool)
    cold[np.random.default_rng([seed, _COLD]).choice(candidates, number, replace=False)] = True
    return cold


def places(ranges: Range, keep: Callable[[Ints, Ints], Bools]) -> NDArray[Any]:
    """The places of all users' ranges that `keep` (of places [n] and their users [n]) lets through, ascending.

    In 4 bytes each where that is enough: a log may have 100 million.
    """
    first, stop = ranges
    narrow = np.int32 if len(stop) == 0 or stop.max() < 2**31 else np.int64
    kept = np.empty(int((stop - first).sum()), dtype=narrow)  # what is not written of it takes no memory
    written = 0
    for users in _blocks(stop - first):
        counts = stop[users] - first[users]
        before = np.cumsum(counts) - counts
        found = np.repeat(first[users] - before, counts) + np.arange(counts.sum())
        passed = found[keep(found, np.repeat(users, counts))]
        kept[written : written + len(passed)] = passed
        written += len(passed)
    return kept[:written]


def _blocks(counts: Ints) -> Iterator[Ints]:
    """Users in order, so many at a time as have about CHUNK interactions."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHUNK, side="right")))
        yield np.arange(start, stop)
        start = stop


def _unless_empty(first: Ints, stop: Ints) -> Range | None:
    return (first, stop) if (stop > first).any() else None
