"""What batches and intervals hold, counted from the log's own batches, which are read as a stream of users.

A batch of B users and an interval of N batches are both groups of consecutive users of an epoch's random order: of B,
and of N x B. So one pass over the stream counts every size at once, in memory that the largest batch and the catalogue
decide. What lies beyond the users that are read is extrapolated.

S slots per user, I items.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import Workload
from gram_core.batch import Batch
from gram_core.protocols import ItemSource

MOST_USERS, MOST_SLOTS, MOST_BATCHES = 1 << 15, 1 << 22, 1 << 9
"""What of the log is read at most: so many users, slots and batches of the workload, but always the largest group that
fits into the first two twice."""
ENOUGH_GROUPS = 8
"""Groups from which their standard deviation is believed."""
LEAST_ERROR = 0.1
"""Of the items that an extrapolation adds, relative."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A mean over groups. error: its standard error, 0 where all groups of an epoch were counted; spread: the standard
    deviation from group to group."""

    mean: float
    error: float = 0.0
    spread: float = 0.0

    @property
    def relative_error(self) -> float:
        """The standard error in parts of the mean."""
        return self.error / self.mean if self.mean else 0.0

    @property
    def high(self) -> float:
        """What one group in 700 exceeds: a peak is the largest of a run's."""
        return self.mean + 3 * self.spread

    @property
    def low(self) -> float:
        """What one in 700 does not reach."""
        return max(0.0, self.mean - 3 * self.spread)


@dataclass(frozen=True)
class TextCounts:
    """Texts that could pass the encoder together: their number, real tokens, the sum of squared lengths, and the
    longest."""

    texts: Estimate
    tokens: Estimate
    squares: Estimate
    longest: Estimate


@dataclass(frozen=True)
class GroupCounts:
    """Groups of `users` users: every slot's texts, and the unique items'. groups: how many were counted; 0:
    extrapolated."""

    users: int
    slots: TextCounts
    unique: TextCounts
    groups: int

    @property
    def item_repetition_ratio(self) -> float:
        """Slots per unique item."""
        return self.slots.texts.mean / self.unique.texts.mean if self.unique.texts.mean else 1.0


@dataclass(frozen=True)
class LogCounts:
    """All sizes that were asked for. users: read; whole: whether they are an epoch, so that nothing is sampled."""

    sizes: dict[int, GroupCounts]
    users: int
    whole: bool
    epoch_users: int | None
    """Users of an epoch; None where there is no such thing."""

    def at(self, users: int) -> GroupCounts:
        """A size between or beyond those counted, along straight lines on logarithmic axes."""
        if users in self.sizes:
            return self.sizes[users]
        known = sorted(self.sizes)
        if len(known) == 1:
            return _between(self.sizes[known[0]], self.sizes[known[0]], users)
        right = next((place for place, size in enumerate(known) if size > users), len(known) - 1)
        right = max(1, right)
        return _between(self.sizes[known[right - 1]], self.sizes[known[right]], users)


def count(workload: Workload, sizes: Iterable[int], most_users: int | None = None) -> LogCounts:
    """Counts groups of each of these sizes, in users.

    The workload's own batches are the stream; their size only says how much of it is made at once. most_users: read at
    most; None: `MOST_USERS`, `MOST_SLOTS`. Raises ValueError where there is no size.
    """
    wanted = sorted(set(sizes))
    if not wanted or wanted[0] < 1:
        raise ValueError("count needs sizes of at least one user")
    first = workload.batches(0)
    block, slots_per_user = first.items.shape
    epoch = None if workload.steps_per_epoch is None else workload.steps_per_epoch * block
    limit = most_users or min(MOST_USERS, max(block, MOST_SLOTS // slots_per_user), MOST_BATCHES * block)
    readable = limit if epoch is None else min(limit, epoch)
    largest = max((size for size in wanted if size <= readable), default=0)
    limit = max(limit, 2 * largest) if most_users is None else limit
    blocks = -(-limit // block)
    if workload.steps_per_epoch is not None:
        blocks = min(blocks, workload.steps_per_epoch)
    lengths = workload.table.lengths.numpy()
    users = blocks * block
    within = [size for size in wanted if size <= users]
    groups = {size: _Groups(size, lengths) for size in within}
    seen = _Seen(lengths, users)
    for step in range(blocks):
        batch = workload.batches(step)
        rows = _rows(batch.items.numpy(), batch.mask.numpy())
        seen.add(rows)
        for each in groups.values():
            each.add(rows)
    whole = epoch is not None and users >= epoch
    found = {size: each.counts(whole) for size, each in groups.items()}
    _lend_spread(found)
    slots = found[within[-1]] if within else _Groups.single(seen, users)
    for size in wanted:
        if size not in found:
            bounded = size if epoch is None else min(size, epoch)
            found[size] = seen.extrapolated(size, bounded, slots)
    return LogCounts(found, users, whole, epoch)


def _rows(items: Ints, mask: NDArray[np.bool_]) -> list[Ints]:
    """Each user's items, [B] of them."""
    ends = np.cumsum(mask.sum(axis=1))[:-1]
    return np.split(items[mask], ends)


class _Groups:
    """Counts of consecutive groups of `size` users; a last one that is not full is left out."""

    def __init__(self, size: int, lengths: Ints):
        self.size, self._lengths = size, lengths
        self._met = np.zeros(len(lengths), dtype=bool)
        self._users = 0
        self._slots = np.zeros(4)
        self._found: list[NDArray[np.float64]] = []

    def add(self, rows: Sequence[Ints]) -> None:
        """Further users."""
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + self.size - self._users)
            held = np.concatenate(rows[start:stop])
            self._met[held] = True
            self._slots = _joined(self._slots, _statistics(self._lengths[held]))
            self._users += stop - start
            start = stop
            if self._users == self.size:
                self._close()

    def _close(self) -> None:
        unique = np.flatnonzero(self._met)
        self._found.append(np.concatenate([self._slots, _statistics(self._lengths[unique])]))
        self._met[unique] = False
        self._users, self._slots = 0, np.zeros(4)

    def counts(self, whole: bool) -> GroupCounts:
        """Means over the groups; without error where they are an epoch's."""
        found = np.stack(self._found)
        means, spreads = found.mean(axis=0), found.std(axis=0, ddof=1 if len(found) > 1 else 0)
        errors = np.zeros_like(spreads) if whole else spreads / math.sqrt(len(found))
        estimates = [Estimate(*map(float, each)) for each in zip(means, errors, spreads, strict=True)]
        return GroupCounts(self.size, TextCounts(*estimates[:4]), TextCounts(*estimates[4:]), len(found))

    @staticmethod
    def single(seen: _Seen, users: int) -> GroupCounts:
        """All users that were read as one group."""
        return GroupCounts(users, seen.slots, seen.unique, 1)


def _statistics(lengths: Ints) -> NDArray[np.float64]:
    if not len(lengths):
        return np.zeros(4)
    wide = lengths.astype(np.float64)
    return np.array([len(lengths), wide.sum(), (wide * wide).sum(), wide.max()])


def _joined(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    joined = some + others
    joined[3] = max(some[3], others[3])
    return joined


def _lend_spread(found: dict[int, GroupCounts]) -> None:
    """Sizes of too few groups to tell a spread get it from the largest that has enough: relative ones fall with the
    square root of the size."""
    sure = [size for size, each in found.items() if each.groups >= ENOUGH_GROUPS]
    if not sure:
        return
    source = max(sure)
    for size, each in found.items():
        if each.groups >= ENOUGH_GROUPS:
            continue
        shrink = math.sqrt(source / size)
        lent = [
            _lent(of, by, shrink, each.groups)
            for of, by in ((each.slots, found[source].slots), (each.unique, found[source].unique))
        ]
        found[size] = GroupCounts(size, lent[0], lent[1], each.groups)


def _lent(of: TextCounts, by: TextCounts, shrink: float, groups: int) -> TextCounts:
    def one(mine: Estimate, theirs: Estimate) -> Estimate:
        spread = mine.mean * (theirs.spread / theirs.mean if theirs.mean else 0.0) * shrink
        exact = theirs.error == 0 and theirs.spread > 0
        return Estimate(mine.mean, 0.0 if exact else spread / math.sqrt(groups), spread)

    return TextCounts(*(one(getattr(of, name), getattr(by, name)) for name in TextCounts.__dataclass_fields__))


class _Seen:
    """How many users met each item, of which the number of items in more users follows.

    The estimator is that of Colwell et al. 2012 (Journal of Plant Ecology 5, eq. 18) for samples of incidence, a user
    being a sample: items that one and that two users met tell how many nobody has met yet (Chao2).
    """

    def __init__(self, lengths: Ints, users: int):
        self._lengths, self._half = lengths, users // 2
        self._times = np.zeros(len(lengths), dtype=np.int32)
        self._users = 0
        self._at_half: tuple[int, float, float, int] | None = None
        self._slots = np.zeros(4)

    def add(self, rows: Sequence[Ints]) -> None:
        """Further users."""
        for row in rows:
            self._times[np.unique(row)] += 1
        held = np.concatenate(rows)
        self._slots = _joined(self._slots, _statistics(self._lengths[held]))
        self._users += len(rows)
        if self._at_half is None and self._users >= self._half:
            self._at_half = (self._users, *self._singles_and_pairs(), int((self._times > 0).sum()))

    def _singles_and_pairs(self) -> tuple[float, float]:
        return float((self._times == 1).sum()), float((self._times == 2).sum())

    @property
    def slots(self) -> TextCounts:
        """Every slot of all users."""
        return TextCounts(*(Estimate(float(each)) for each in self._slots))

    @property
    def unique(self) -> TextCounts:
        """All items met."""
        return TextCounts(*(Estimate(float(each)) for each in _statistics(self._lengths[self._times > 0])))

    def extrapolated(self, size: int, users: int, slots: GroupCounts) -> GroupCounts:
        """A group of `size` users that meets what `users` users do; slots: a counted group, whose slots are scaled."""
        scaled = _scaled(slots.slots, size / slots.users)
        met = self.unique
        added = min(
            _further(self._users, *self._singles_and_pairs(), users - self._users),
            float((self._times == 0).sum()),
        )
        error = added * self._relative_error()
        rare = self._lengths[self._times == 1]
        each = _statistics(rare if len(rare) else self._lengths)
        of_each = each / max(1.0, each[0])
        texts, tokens, squares = (
            Estimate(base.mean + added * float(per), error * float(per))
            for base, per in zip((met.texts, met.tokens, met.squares), of_each, strict=False)
        )
        return GroupCounts(size, scaled, TextCounts(texts, tokens, squares, met.longest), 0)

    def _relative_error(self) -> float:
        """How far off the second half was, extrapolated from the first."""
        if self._at_half is None or self._at_half[0] >= self._users:
            return 1.0
        users, singles, pairs, met = self._at_half
        actual = int((self._times > 0).sum()) - met
        return max(LEAST_ERROR, abs(_further(users, singles, pairs, self._users - users) - actual) / max(1, actual))


def _further(users: int, singles: float, pairs: float, more: int) -> float:
    """Items that `more` users meet and these did not."""
    if singles == 0 or more <= 0:
        return 0.0
    share = (users - 1) / users if users > 1 else 1.0
    unmet = share * (singles**2 / (2 * pairs) if pairs else singles * (singles - 1) / 2)
    if unmet <= 0:
        return 0.0
    return float(unmet * -np.expm1(more * np.log1p(-singles / (users * unmet + singles))))


def _scaled(counts: TextCounts, by: float) -> TextCounts:
    def one(of: Estimate) -> Estimate:
        return Estimate(of.mean * by, of.error * by, of.spread * math.sqrt(by))

    return TextCounts(one(counts.texts), one(counts.tokens), one(counts.squares), counts.longest)


def _between(low: GroupCounts, high: GroupCounts, users: int) -> GroupCounts:
    if high.users == low.users:
        scaled = _scaled(low.slots, users / low.users)
        return GroupCounts(users, scaled, _scaled(low.unique, users / low.users), 0)
    place = math.log(users / low.users) / math.log(high.users / low.users)

    def one(a: Estimate, b: Estimate) -> Estimate:
        if min(a.mean, b.mean) <= 0:
            return b
        mean = a.mean * (b.mean / a.mean) ** place
        return Estimate(
            mean,
            mean * max(a.relative_error, b.relative_error),
            mean * max(a.spread / a.mean, b.spread / b.mean),
        )

    def both(a: TextCounts, b: TextCounts) -> TextCounts:
        return TextCounts(*(one(getattr(a, name), getattr(b, name)) for name in TextCounts.__dataclass_fields__))

    return GroupCounts(users, both(low.slots, high.slots), both(low.unique, high.unique), 0)


def of_batches(batches: Sequence[Batch], table: ItemSource, steps: int) -> tuple[GroupCounts, GroupCounts]:
    """Counts of these batches, all of one size, and of their intervals; raises ValueError for a part of one."""
    if not batches or len(batches) % steps:
        raise ValueError(f"{len(batches)} batches are no whole number of intervals of {steps}")
    lengths, users = table.lengths.numpy(), batches[0].users
    single, interval = _Groups(users, lengths), _Groups(users * steps, lengths)
    for batch in batches:
        rows = _rows(batch.items.numpy(), batch.mask.numpy())
        single.add(rows)
        interval.add(rows)
    return single.counts(True), interval.counts(True)
