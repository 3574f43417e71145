"""Batches drawn at random whose item repetition ratio is the one asked for, exactly: of any items, known by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bench.workloads._base import Axes, WorkloadRequest, batch_of, no_argument, slots_per_user
from bench.workloads._synth import laws

if TYPE_CHECKING:
    from gram_core.batch import Batch

_BATCH = 1
"""Stream of random numbers under the request's seed; 0 is what items are made of."""


def check(name: str, items: int, axes: Axes) -> None:
    """Raises ValueError, naming the bound, where no batch of `items` items has the asked-for ratio."""
    no_argument(name, axes.argument)
    ratio, batch_size = axes.item_repetition_ratio, axes.batch_size
    if ratio is None:
        raise ValueError(f"the {name} workload needs an item_repetition_ratio")
    if not 1 <= ratio <= batch_size:
        raise ValueError(
            f"item_repetition_ratio = {ratio:g} is out of reach: a user's items are distinct, so it lies between 1 and "
            f"the batch_size, {batch_size}"
        )
    unique = unique_items(batch_size, slots_per_user(axes.history_length, axes.candidates, axes.task), ratio)
    if unique > items:
        raise ValueError(
            f"item_repetition_ratio = {ratio:g} at batch_size {batch_size} needs {unique} unique items in a batch, "
            f"more than workload.{name}.items = {items}"
        )


def unique_items(batch_size: int, slots: int, item_repetition_ratio: float) -> int:
    """U whose ratio is nearest to the asked-for one, of the U that B users with S slots each can have."""
    return min(max(round(batch_size * slots / item_repetition_ratio), slots), batch_size * slots)


def batches(items: int, zipf: float, request: WorkloadRequest) -> tuple[Callable[[int], Batch], float]:
    """Batches by step, of items 0 (the most popular) to `items` - 1, and their ratio."""
    users, history = request.batch_size, request.history_length
    slots = slots_per_user(history, request.candidates, request.task)
    unique = unique_items(users, slots, float(request.item_repetition_ratio or 1))
    slots_of = laws.counts(users * slots, unique, users, zipf)
    popularity = laws.weights(items, zipf)

    def batch(step: int) -> Batch:
        rng = np.random.default_rng([request.seed, _BATCH, step])
        drawn = laws.lay_out(rng, laws.draw(rng, popularity, unique), slots_of, users)
        if request.task == "ranking":
            targets = rng.integers(request.candidates, size=users)
        else:
            targets = rng.integers(2, size=(users, slots)).astype(np.float32)
        return batch_of(drawn, np.ones((users, slots), dtype=bool), targets, history)

    return batch, users * slots / unique
