"""Ranking over an interaction log: the items before a click, the clicked one, and items that the user never met.

B users, H history slots, C candidates, I items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import Scored, WorkloadRequest, batch_of
from bench.workloads._log.interaction_log import InteractionLog
from bench.workloads._log.splits import Range, by_time, places
from bench.workloads._sampling.epoch_sampler import Examples, HeldOutExamples, Ints, LogSettings, Rng, sampled
from bench.workloads._sampling.negatives import Pool

if TYPE_CHECKING:
    from gram_core.batch import Batch

Bools = NDArray[np.bool_]


def examples(log: InteractionLog, settings: LogSettings, request: WorkloadRequest, name: str) -> Examples:
    """An example is the place of its target. Raises ValueError where a user has met too much to draw negatives from."""
    split = by_time(log, request.hold_out, request.seed)
    cold = split.cold
    warm_pool, cold_pool = Pool(log, ~cold), Pool(log, cold)
    if request.candidates - 1 > (left := warm_pool.fewest_left()):
        raise ValueError(f"candidates = {request.candidates}: a user of {name} leaves only {left} items unmet")

    def has_history(places: Ints, users: Ints) -> Bools:
        return places - log.starts[users] >= settings.min_history

    def trained(places: Ints, users: Ints) -> Bools:
        return has_history(places, users) & ~cold[log.items[places]]

    def batch(targets: Ints, rng: Rng) -> Batch:
        return _impressions(log, targets, warm_pool, request.history_length, request.candidates, rng, hidden=cold)

    def held_out(ranges: Range | None, number: int) -> HeldOutExamples | None:
        if ranges is None:
            return None
        found = places(ranges, has_history)
        is_cold = cold[log.items[found]]
        limit = settings.scored_examples
        chosen = [sampled(found[which], limit, request.seed, number) for which in (~is_cold, is_cold)]

        def scored(targets: Ints, rng: Rng) -> Scored:
            return _scored(log, targets, (warm_pool, cold_pool), cold, settings.scored_candidates, request, rng)

        return HeldOutExamples(np.concatenate(chosen), request.history_length + settings.scored_candidates, scored)

    return Examples(
        places(split.train, trained),
        batch,
        np.flatnonzero(cold),
        held_out(split.validation, 0),
        held_out(split.test, 1),
    )


def _scored(
    log: InteractionLog,
    targets: Ints,
    pools: tuple[Pool, Pool],
    cold: Bools,
    candidates: int,
    request: WorkloadRequest,
    rng: Rng,
) -> Scored:
    """Warm clicks among warm items, cold clicks among cold ones, so that being new says nothing."""
    import torch

    from gram_core.batch import Batch

    is_cold = cold[log.items[targets]]
    order = np.argsort(is_cold, kind="stable")
    parts = [
        _impressions(log, targets[is_cold == kind], pool, request.history_length, candidates, rng)
        for kind, pool in enumerate(pools)
    ]
    back = torch.from_numpy(np.argsort(order))
    items, mask, clicked = (
        torch.cat([getattr(part, field) for part in parts])[back] for field in ("items", "mask", "targets")
    )
    return Scored(Batch(items, mask, clicked, request.history_length), torch.from_numpy(is_cold))


def _impressions(
    log: InteractionLog,
    targets: Ints,
    pool: Pool,
    history_length: int,
    candidates: int,
    rng: Rng,
    hidden: Bools | None = None,
) -> Batch:
    """One row per target, the clicked candidate at a random place; `hidden` items [I] leave gaps in the history."""
    users, rows = log.users_of(targets), np.arange(len(targets))
    seen, mask = log.slots(targets[:, None] + np.arange(-history_length, 0), users)
    if hidden is not None:
        mask &= ~hidden[seen]
    negatives, there = pool.draw(rng, users, candidates - 1)
    shown = np.concatenate([np.zeros_like(negatives[:, :1]), negatives], axis=1)
    shown_mask = np.concatenate([np.ones_like(there[:, :1]), there], axis=1)
    clicked = rng.integers(candidates, size=len(targets))
    shown[:, 0], shown_mask[:, 0] = shown[rows, clicked], shown_mask[rows, clicked]
    shown[rows, clicked], shown_mask[rows, clicked] = log.items[targets], True
    items = np.concatenate([seen, shown], axis=1)
    return batch_of(items, np.concatenate([mask, shown_mask], axis=1), clicked, history_length)
