"""`movielens`: MovieLens-100k, real ratings of real films with real texts.

Ranking: a user's latest H films before a film, that film, and C - 1 films which the user never rated. Response
prediction: stretches of H ratings, was each 4 or 5? Either way every target comes once in an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bench import assets
from bench.workloads._base import Task, Workload, WorkloadRequest
from bench.workloads._movielens_files import Log, film_texts, read_log
from bench.workloads._tokens import tokenized

if TYPE_CHECKING:
    from gram_core.batch import Batch

ASSETS = ("movielens", "films")
TAKES_REPETITION_RATIO = False

LIKED = 4
"""The least rating that counts as a positive response."""

_ORDER, _STEP = 0, 1
"""Streams of random numbers under one seed."""

Ints = NDArray[np.int64]


class Settings(BaseModel):
    """`[workload.movielens]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: Literal["title", "full"] = "full"
    """Title, year and genres, or also director, writers, cast, countries and languages where they are known."""
    min_history: Annotated[int, Field(ge=1)] = 1
    """Ranking only: films that a user must have rated before a target."""


def check(
    settings: Settings,
    *,
    batch_size: int,
    history_length: int,
    text_length: int,
    item_repetition_ratio: float | None,
    candidates: int = 5,
    task: Task = "ranking",
) -> None:
    """Raises ValueError where a ratio is asked for: a log has its own."""
    if item_repetition_ratio is not None:
        raise ValueError(
            f"item_repetition_ratio = {item_repetition_ratio:g} cannot be asked of movielens: a real log has its own"
        )


def build(settings: Settings, request: WorkloadRequest) -> Workload:
    """Raises ValueError as `check` does, or where the encoder has no tokenizer or the log is too short for a batch,
    `bench.assets.AssetError` where the files cannot be had."""
    import torch

    from gram_core.batch import ItemTable

    check(settings, **request.axes)
    if request.tokenizer is None:
        raise ValueError(
            "movielens has real texts, and this encoder has no tokenizer to read them with; choose one that has, "
            "such as minilm or shape:tinybert-6-768"
        )
    log = read_log(assets.fetch("movielens"))
    texts, known = film_texts(log.films, assets.fetch("films"), settings.texts)
    tokens, offsets = tokenized(texts, request.tokenizer)
    table = ItemTable(torch.from_numpy(tokens), torch.from_numpy(offsets))
    table = table.truncated(request.text_length, request.closing_token_id)
    examples, batch = (_ranking if request.task == "ranking" else _responses)(log, settings, request)
    steps = len(examples) // request.batch_size
    if steps == 0:
        raise ValueError(f"batch_size = {request.batch_size} is more than the {len(examples)} examples of movielens")

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Ints:
        return examples[np.random.default_rng([request.seed, _ORDER, epoch]).permutation(len(examples))]

    def batches(step: int) -> Batch:
        epoch, place = divmod(step, steps)
        chosen = order(epoch)[place * request.batch_size : (place + 1) * request.batch_size]
        return batch(chosen, np.random.default_rng([request.seed, _STEP, step]))

    facts = {
        "users": len(log.starts) - 1,
        "items": len(log.films),
        "ratings": len(log.ratings),
        "items_with_known_film": int(known.sum()),
        "share_of_ratings_with_known_film": float(known[log.items].mean()),
        "texts": settings.texts,
        "mean_text_tokens": float(table.lengths.double().mean()),
        "mean_text_tokens_uncut": float(np.diff(offsets).mean()),
        "examples": len(examples),
    }
    return Workload(table, batches, steps, facts)


Examples = tuple[Ints, Callable[[Ints, np.random.Generator], "Batch"]]
"""Examples as indices into the log, and what makes a batch of some of them."""


def _ranking(log: Log, settings: Settings, request: WorkloadRequest) -> Examples:
    """An example is the index of its target's rating."""
    import torch

    from gram_core.batch import Batch

    unrated = np.ones((len(log.starts) - 1, len(log.films)), dtype=bool)
    unrated[log.users, log.items] = False
    choices = unrated.sum(1)
    if request.candidates - 1 > choices.min():
        raise ValueError(
            f"candidates = {request.candidates}: a user of movielens leaves only {choices.min()} films unrated"
        )
    drawable = np.nonzero(unrated)[1]  # user by user
    first_choice = np.cumsum(choices) - choices
    before = np.arange(len(log.items)) - log.starts[log.users]

    def batch(targets: Ints, rng: np.random.Generator) -> Batch:
        users, rows = log.users[targets], np.arange(len(targets))
        places = targets[:, None] + np.arange(-request.history_length, 0)
        seen, mask = _slots(log, places, users)
        candidates = np.empty((len(targets), request.candidates), dtype=np.int64)
        drawn = _distinct(rng, choices[users], request.candidates - 1)
        candidates[:, 1:] = drawable[first_choice[users][:, None] + drawn]
        clicked = rng.integers(request.candidates, size=len(targets))
        candidates[:, 0] = candidates[rows, clicked]
        candidates[rows, clicked] = log.items[targets]
        items = np.concatenate([seen, candidates], axis=1)
        mask = np.concatenate([mask, np.ones_like(candidates, dtype=bool)], axis=1)
        return Batch(torch.from_numpy(items), torch.from_numpy(mask), torch.from_numpy(clicked), request.history_length)

    return np.flatnonzero(before >= settings.min_history), batch


def _responses(log: Log, settings: Settings, request: WorkloadRequest) -> Examples:
    """An example is the index of the last rating of a stretch; stretches of one user do not overlap."""
    import torch

    from gram_core.batch import Batch

    length = request.history_length
    left = log.starts[log.users + 1] - 1 - np.arange(len(log.items))  # the user's ratings still to come

    def batch(lasts: Ints, rng: np.random.Generator) -> Batch:
        places = lasts[:, None] + np.arange(1 - length, 1)
        items, mask = _slots(log, places, log.users[lasts])
        liked = (log.ratings[places.clip(0)] >= LIKED) & mask
        return Batch(
            torch.from_numpy(items), torch.from_numpy(mask), torch.from_numpy(liked.astype(np.float32)), length
        )

    return np.flatnonzero(left % length == 0), batch


def _distinct(rng: np.random.Generator, choices: Ints, number: int) -> Ints:
    """In each row [B, number], that many different numbers below `choices` [B], every such draw as likely.

    The next number is drawn among those that are left, then counted past the ones drawn before it.
    """
    found = np.empty((len(choices), number), dtype=np.int64)
    for column in range(number):
        drawn = rng.integers(choices - column)
        for earlier in np.sort(found[:, :column], axis=1).T:
            drawn += drawn >= earlier
        found[:, column] = drawn
    return found


def _slots(log: Log, places: Ints, users: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Items and mask at these places of the log; places before a user's first rating are padding, on the left."""
    mask = places >= log.starts[users][:, None]
    return np.where(mask, log.items[places.clip(0)], 0), mask
