"""A log drawn at random, block of users by block: how much each user met is given, what they met follows Zipf's law.

U users, I items. No item comes twice with one user: items are drawn by popularity, and one that the user has met is
drawn again, which is sampling without replacement.
"""

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import WorkloadRequest
from bench.workloads._log.interaction_log import LogWriter
from bench.workloads._synth import laws

Ints = NDArray[np.int64]
BLOCK = 1 << 19
"""Interactions drawn at once."""
_TRIES = 5
"""Draws of a block before the users who are still short are served one by one."""
_ORDER_BITS = 23
"""Of a draw's place in its block: BLOCK draws and as many again, and two per user more."""


def write(
    writer: LogWriter,
    rng: np.random.Generator,
    popularity: NDArray[np.float64],
    lengths: Ints,
    earlier: Ints,
    right: float,
) -> None:
    """Appends users [U] who each met `lengths` different items, the first `earlier` of them before the log begins.

    popularity [I]: of the items, summing to 1. right: share of labels that are 1. A user's items are in random order.
    """
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        items = distinct_items(rng, popularity, lengths[start:stop])
        labels = rng.random(len(items), dtype=np.float32) < right
        writer.append(lengths[start:stop], items.astype(np.int32), labels.astype(np.uint8), earlier[start:stop])
        start = stop


def distinct_items(rng: np.random.Generator, popularity: NDArray[np.float64], lengths: Ints) -> Ints:
    """`lengths` [n] different items for each user, user by user, in random order within each.

    Pairs and their order are packed into whole numbers, which sort ten times as fast as anything that is indexed.
    """
    cumulative = np.cumsum(popularity)
    cumulative[-1] = 1.0
    users, items = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    complete: list[tuple[Ints, Ints]] = []
    short = lengths.copy()
    for _ in range(_TRIES):
        wanting = np.flatnonzero(short)
        tried = np.repeat(wanting, short[wanting] + short[wanting] // 2 + 2)
        drawn = np.searchsorted(cumulative, rng.random(len(tried)), side="right")
        users, items = _first_of_each(np.append(users, tried), np.append(items, drawn), lengths, len(popularity))
        found = np.bincount(users, minlength=len(lengths))
        short[wanting] = lengths[wanting] - found[wanting]
        done = short[users] == 0
        complete.append((users[done], items[done]))
        users, items = users[~done], items[~done]
    for user in np.flatnonzero(short):  # they have met nearly all that is popular
        mine = items[users == user]
        left = np.log(popularity)
        left[mine] = -np.inf
        more = laws.largest(left + rng.gumbel(size=len(left)), short[user])
        complete.append((np.full(lengths[user], user), np.append(mine, more)))
    users, items = (np.concatenate(parts) for parts in zip(*complete, strict=True))
    shuffled = users << _ORDER_BITS | rng.integers(1 << _ORDER_BITS, size=len(users))
    return _sorted_by(shuffled, items, len(popularity))[1]


def _first_of_each(users: Ints, items: Ints, lengths: Ints, item_count: int) -> tuple[Ints, Ints]:
    """Users with their items, by user and order drawn: each pair once, of each user the first `lengths`."""
    order = np.arange(len(users))
    pairs, order = _sorted_by(users * item_count + items, order, len(users))
    first = np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]
    pairs, order = pairs[first], order[first]
    users, items = np.divmod(pairs, item_count)
    keys, items = _sorted_by(users << _ORDER_BITS | order, items, item_count)
    users = keys >> _ORDER_BITS
    counts = np.bincount(users, minlength=len(lengths))
    rank = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = rank < lengths[users]
    return users[kept], items[kept]


def _sorted_by(keys: Ints, values: Ints, value_count: int) -> tuple[Ints, Ints]:
    """Keys in order, and each one's value (below `value_count`); equal keys in the order of their values."""
    bits = max(1, int(value_count - 1).bit_length())
    packed = np.sort(keys << bits | values)
    return packed >> bits, packed & ((1 << bits) - 1)


def shortest(request: WorkloadRequest) -> int:
    """Tokens of the shortest text: special ones, and an ordinary one where L has room for it."""
    ends = (request.opening_token_id is not None) + (request.closing_token_id is not None)
    return min(request.text_length, 1 + ends)


def random_texts(lengths: Ints, request: WorkloadRequest, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Ordinary tokens [T] between opening and closing ones, and where each text starts [n + 1].

    lengths [n]: special tokens included.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    is_ordinary = np.ones(request.vocab_size, dtype=bool)
    is_ordinary[sorted(request.special_token_ids | {request.pad_token_id})] = False
    ordinary = np.flatnonzero(is_ordinary)
    tokens = ordinary[rng.integers(len(ordinary), size=offsets[-1])]
    if request.opening_token_id is not None:
        tokens[offsets[:-1]] = request.opening_token_id
    if request.closing_token_id is not None:
        tokens[offsets[1:] - 1] = request.closing_token_id
    return tokens, offsets
