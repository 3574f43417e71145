"""Response prediction over an interaction log: stretches of H consecutive responses of one user, each response once.

B users, S = H slots, I items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import Scored, WorkloadRequest, batch_of
from bench.workloads._log.interaction_log import InteractionLog
from bench.workloads._log.splits import Range, by_user, places
from bench.workloads._sampling.epoch_sampler import Examples, HeldOutExamples, Ints, Rng, ScoredSettings, sampled

if TYPE_CHECKING:
    from gram_core.batch import Batch

Bools = NDArray[np.bool_]


def examples(log: InteractionLog, settings: ScoredSettings, request: WorkloadRequest) -> Examples:
    """An example is the place of the last response of its stretch; stretches of one user do not overlap."""
    length = request.history_length
    split = by_user(log, request.hold_out, request.seed)
    cold = split.cold

    def is_last(places: Ints, users: Ints) -> Bools:
        return (log.starts[users + 1] - 1 - places) % length == 0

    def batch(lasts: Ints, rng: Rng) -> Batch:
        return _stretches(log, lasts, length, hidden=cold)

    def scored(lasts: Ints, rng: Rng) -> Scored:
        import torch

        found = _stretches(log, lasts, length)
        return Scored(found, torch.from_numpy(cold)[found.items] & found.mask)

    def held_out(ranges: Range | None, number: int) -> HeldOutExamples | None:
        if ranges is None:
            return None
        found = sampled(places(ranges, is_last), settings.scored_examples, request.seed, number)
        return HeldOutExamples(found, length, scored)

    return Examples(
        places(split.train, is_last),
        batch,
        np.flatnonzero(cold),
        held_out(split.validation, 0),
        held_out(split.test, 1),
    )


def _stretches(log: InteractionLog, lasts: Ints, length: int, hidden: Bools | None = None) -> Batch:
    """The `length` responses that end at these places; padding is on the left, `hidden` items [I] leave gaps."""
    at = lasts[:, None] + np.arange(1 - length, 1)
    items, mask = log.slots(at, log.users_of(lasts))
    if hidden is not None:
        mask &= ~hidden[items]
    responses = ((log.labels[at.clip(0)] > 0) & mask).astype(np.float32)
    return batch_of(items, mask, responses, length)
