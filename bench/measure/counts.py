"""What a step's work amounts to, counted from the measured batches, outside every timed window.

Everything is per step and a mean over the batches, so that counts and seconds belong to the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gram_core.batch import Batch
from gram_core.methods._base import MethodBase
from gram_core.protocols import ContentEncoder, ItemSource


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
