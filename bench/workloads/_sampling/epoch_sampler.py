"""From examples to a workload: a random order for each epoch, and what is held out in batches of its own.

An example is a number whose meaning is its maker's: a place of a log, say. E examples, B users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.configuration.values import Table
from bench.results.analysis import left_out
from bench.workloads._base import HeldOut, Scored, Workload, WorkloadRequest

if TYPE_CHECKING:
    from gram_core.batch import Batch, ItemTable


Ints = NDArray[np.int64]
Rng = np.random.Generator

SCORED_USERS, SCORED_SLOTS = 256, 25_600
"""The most users of a scored batch, and slots: fewer users where one has more than 100, candidates included.

They bound memory, and say which negatives a held-out click is among, since a batch draws its own. Of float32
encodings of width 768, 50 items read and 50 shown take 79 MB and NRMS 280 MB more, 100 answered items SAKT 850 MB:
nothing is kept for a gradient. Smaller batches leave a GPU waiting for the next launch.
"""

ORDERED_AT_ONCE = 1 << 14
"""Examples whose places in the order are found together, in 1 to 3 ms: a batch of 256 alone takes 0.3 to 0.8 ms,
nearly all of it calls of NumPy, for few numbers as many as for all of these. A whole epoch may be 100 million."""

_ORDER, _STEP, _SCORED, _SAMPLE = 0, 1, 2, 3
"""Streams of random numbers under one seed."""


class ScoredSettings(Table):
    """What every log's table has; all of it is about what is held out."""

    scored_examples: Annotated[int, Field(ge=1)] | Literal["all"] = 2_000
    """Impressions (ranking: so many warm and so many cold ones) or stretches of responses that a split scores."""


class LogSettings(ScoredSettings):
    """What the table of a log has that can be ranked."""

    min_history: Annotated[int, Field(ge=1)] = 1
    """Ranking: items that a user must have met before a target."""
    scored_candidates: Annotated[int, Field(ge=2)] = 50
    """Ranking: the clicked item and its negatives where held-out clicks are scored."""


@dataclass(frozen=True, eq=False)
class HeldOutExamples:
    """Examples [E] in the order of scoring, the most slots that one has, and what makes a scored batch of some."""

    examples: NDArray[Any]
    slots: int
    batch: Callable[[Ints, Rng], Scored]


@dataclass(frozen=True, eq=False)
class Examples:
    """Training examples [E], what makes a batch of some of them, what is scored, and the cold items, sorted."""

    train: NDArray[Any]
    batch: Callable[[Ints, Rng], Batch]
    cold_items: NDArray[np.int64]
    validation: HeldOutExamples | None = None
    test: HeldOutExamples | None = None


def workload(
    examples: Examples, table: ItemTable, request: WorkloadRequest, name: str, facts: Mapping[str, Any]
) -> Workload:
    """Every training example comes once in an epoch, in a new order each time, but for the rest that fills no batch.

    Raises ValueError where there are too few examples for a batch, or none in a split that was asked for.
    """
    import torch

    users, train = request.batch_size, examples.train
    steps = len(train) // users
    if steps == 0:
        why = "".join(f"; {sentence.removesuffix('.')}" for sentence in left_out.sentences(name, facts))
        raise ValueError(f"batch_size = {users} is more than the {len(train)} examples of {name}{why}")
    if request.hold_out is not None:
        for split, share in (("validation", request.hold_out.validation), ("test", request.hold_out.test)):
            held_out = getattr(examples, split)
            if share and (held_out is None or not len(held_out.examples)):
                raise ValueError(f"train.{split} = {share:g} leaves nothing of {name} to score; give it a larger share")

    steps_at_once = max(1, ORDERED_AT_ONCE // users)

    @lru_cache(maxsize=2)
    def ordered(epoch: int, block: int) -> Ints:
        """The examples of a block of steps, [steps, B]."""
        order = Permutation(len(train), [request.seed, _ORDER, epoch])
        first, stop = block * steps_at_once, min((block + 1) * steps_at_once, steps)
        return train[order(np.arange(first * users, stop * users))].astype(np.int64).reshape(-1, users)

    def batches(step: int) -> Batch:
        epoch, place = divmod(step, steps)
        block, row = divmod(place, steps_at_once)
        return examples.batch(ordered(epoch, block)[row], np.random.default_rng([request.seed, _STEP, step]))

    facts = {
        **facts,
        "examples": len(train),
        **({} if examples.validation is None else {"validation_examples": len(examples.validation.examples)}),
        **({} if examples.test is None else {"test_examples": len(examples.test.examples)}),
        **({"cold_items": len(examples.cold_items)} if len(examples.cold_items) else {}),
    }
    return Workload(
        table,
        batches,
        steps,
        facts,
        validation=_held_out(examples.validation, [request.seed, _SCORED, 0]),
        test=_held_out(examples.test, [request.seed, _SCORED, 1]),
        cold_items=torch.from_numpy(examples.cold_items.astype(np.int64)),
    )


def sampled(examples: NDArray[Any], most: int | str, seed: int, split: int) -> NDArray[Any]:
    """At most `most` of these examples ("all": all of them), drawn at random, in their own order."""
    if most == "all" or len(examples) <= int(most):
        return examples
    return examples[np.sort(np.random.default_rng([seed, _SAMPLE, split]).choice(len(examples), int(most), False))]


def _held_out(split: HeldOutExamples | None, seed: list[int]) -> HeldOut | None:
    if split is None:
        return None
    users = max(1, min(SCORED_USERS, SCORED_SLOTS // split.slots))

    def batches(step: int) -> Scored:
        chosen = split.examples[step * users : (step + 1) * users].astype(np.int64)
        return split.batch(chosen, np.random.default_rng([*seed, step]))

    return HeldOut(batches, -(-len(split.examples) // users))


ROUNDS = 6
_MIX = np.uint64(0xBF58476D1CE4E5B9)
"""The odd constant of SplitMix64 (Steele, Lea and Flood, 2014)."""


class Permutation:
    """A permutation of 0 .. n - 1, the same for the same seed; maps any positions [m] in time of order m.

    Computed where it is asked for, stored nowhere: a Feistel network is a bijection of 2^(2h) numbers; a number that it
    sends beyond n goes through again until it comes back below (cycle walking), which leaves a bijection of n numbers.
    """

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
