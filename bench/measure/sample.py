"""How much repeats in a log's batches, counted on enough of them, and which of them are typical.

A handful of batches can be far from the log: three gave a repetition ratio of 44.5 where it has 39.7. Counting costs no
step, so many more are counted than can be timed, and those are timed that are nearest to the mean of all counted ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gram_core.batch import Batch
from gram_core.methods._base import MethodBase
from gram_core.protocols import ContentEncoder, ItemSource

LEAST, MOST = 8, 256
"""Batches that are counted."""
ERROR = 0.01
"""Relative standard error of the ratio that is small enough to stop counting."""


@dataclass(frozen=True)
class Sample:
    """Of the counted batches: their numbers, the most typical first, and the ratio with its relative standard error,
    which is 0 where they are all that an epoch has."""

    numbers: tuple[int, ...]
    item_repetition_ratio: float | None
    relative_error: float | None

    @property
    def batches(self) -> int:
        """How many were counted."""
        return len(self.numbers)


@dataclass(frozen=True)
class _Load:
    """What a batch asks of a method that encodes every slot, and of one that encodes each item once."""

    slots: int
    unique: int
    slot_tokens: int
    unique_tokens: int


def sample(batches: Callable[[int], Batch], first: int, table: ItemSource, steps_per_epoch: int | None) -> Sample:
    """Counts batches `first`, `first` + 1, ... until their ratio is known to ERROR, at most MOST or an epoch."""
    most = MOST if steps_per_epoch is None else min(MOST, steps_per_epoch)
    loads: list[_Load] = []
    ratio = error = None
    while len(loads) < most:
        loads.append(_load(batches(first + len(loads)), table))
        ratio, error = _ratio(loads)
        if len(loads) >= LEAST and error is not None and error <= ERROR:
            break
    if len(loads) == steps_per_epoch:
        error = 0.0
    means = [sum(getattr(load, name) for load in loads) / len(loads) for name in _ENCODED]
    order = sorted(range(len(loads)), key=lambda place: _distance(loads[place], means))
    return Sample(tuple(first + place for place in order), ratio, error)


def _load(batch: Batch, table: ItemSource) -> _Load:
    items = batch.items[batch.mask]
    unique, counts = torch.unique(items, return_counts=True)
    lengths = table.lengths[unique]
    return _Load(len(items), len(unique), int((lengths * counts).sum()), int(lengths.sum()))


def _ratio(loads: list[_Load]) -> tuple[float | None, float | None]:
    """Slots over unique items of all batches together, and its relative standard error (ratio of means, linearised)."""
    slots, unique, count = sum(load.slots for load in loads), sum(load.unique for load in loads), len(loads)
    if not unique:
        return None, None
    ratio = slots / unique
    if count < 2:
        return ratio, None
    squares = sum((load.slots - ratio * load.unique) ** 2 for load in loads)
    return ratio, math.sqrt(squares * count / (count - 1)) / slots


_ENCODED = ("slot_tokens", "unique_tokens")


def _distance(load: _Load, means: list[float]) -> float:
    """From the means, in parts of them, of what either kind of method encodes."""
    return sum((getattr(load, name) / mean - 1) ** 2 for name, mean in zip(_ENCODED, means, strict=True) if mean)


def batch_counts(batches: Sequence[Batch], table: ItemSource, interval: int) -> dict[str, float | None]:
    """The counting columns of a `Record` that belong to the data: users, slots, unique items, real tokens.

    batches: whole intervals of `interval` steps each. Raises ValueError for anything else.
    """
    steps = len(batches)
    if not steps or steps % interval:
        raise ValueError(f"{steps} batches are no whole number of intervals of {interval}")
    items = [batch.items[batch.mask] for batch in batches]
    slots = sum(len(row) for row in items)
    unique = sum(_distinct([row], len(table)) for row in items)
    intervals = [items[start : start + interval] for start in range(0, steps, interval)]
    interval_unique = sum(_distinct(rows, len(table)) for rows in intervals)
    return {
        "users": sum(batch.users for batch in batches) / steps,
        "item_slots": slots / steps,
        "unique_items": unique / steps,
        "item_repetition_ratio": slots / unique if unique else None,
        "interval_unique_items": interval_unique / len(intervals) if interval > 1 else None,
        "interval_repetition_ratio": slots / interval_unique if interval > 1 and interval_unique else None,
        "real_tokens": sum(int(table.lengths[row].sum()) for row in items) / steps,
    }


def _distinct(rows: Sequence[torch.Tensor], catalogue: int) -> int:
    """How many items there are in these rows: marked and not sorted, for an interval may be as long as an epoch."""
    met = torch.zeros(catalogue, dtype=torch.bool)
    for row in rows:
        met[row] = True
    return int(met.sum())


def encoder_counts(
    batches: Sequence[Batch], table: ItemSource, encoder: ContentEncoder, method: MethodBase
) -> dict[str, float | None]:
    """The counting columns that belong to the method: tokens it sends through the encoder, padding excluded and not."""
    lengths = [table.lengths[items] for items in method.encoded_items(batches)]
    return {
        "encoded_tokens": sum(int(row.sum()) for row in lengths) / len(batches),
        "padded_tokens": sum(int(encoder.computed_tokens(row).sum()) for row in lengths) / len(batches),
    }
