"""`synthetic`: random texts and batches whose item repetition ratio is the one asked for, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bench import assets
from bench.workloads import _zipf
from bench.workloads._base import Axes, Workload, WorkloadRequest, no_argument, slots_per_user
from bench.workloads._movielens_files import film_texts, read_log
from bench.workloads._random_texts import random_texts, shortest
from bench.workloads._tokens import tokenized

if TYPE_CHECKING:
    from gram_core.batch import Batch

ASSETS: tuple[str, ...] = ()
TAKES_REPETITION_RATIO = True
HOLDS_OUT = False

_TABLE, _BATCH = 0, 1
"""Streams of random numbers under one seed."""


class Settings(BaseModel):
    """`[workload.synthetic]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: Annotated[int, Field(ge=1)] = 20_000
    """Items of the catalogue."""
    zipf: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Exponent of popularity, within a batch and from batch to batch; 0 is uniform."""
    text_tokens: Literal["uniform", "full", "lognormal", "corpus"] = "uniform"
    """Lengths of texts: uniform over L/4 .. L (mean 0.625 L), all L, lognormal, or those of MovieLens' films, cut."""
    lognormal_mean: Annotated[float, Field(gt=0)] = 0.5
    """Mean of the lognormal lengths before they are held within 1 .. L, in parts of L."""
    lognormal_sigma: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of their logarithm."""
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = None
    """What "1E" of accumulation_steps stands for."""


def check(settings: Settings, axes: Axes) -> None:
    """Raises ValueError, naming the bound, where no batch has the asked-for ratio."""
    no_argument("synthetic", axes.argument)
    ratio, batch_size = axes.item_repetition_ratio, axes.batch_size
    if ratio is None:
        raise ValueError("the synthetic workload needs an item_repetition_ratio")
    if not 1 <= ratio <= batch_size:
        raise ValueError(
            f"item_repetition_ratio = {ratio:g} is out of reach: a user's items are distinct, so it lies between 1 and "
            f"the batch_size, {batch_size}"
        )
    unique = unique_items(batch_size, slots_per_user(axes.history_length, axes.candidates, axes.task), ratio)
    if unique > settings.items:
        raise ValueError(
            f"item_repetition_ratio = {ratio:g} at batch_size {batch_size} needs {unique} unique items in a batch, "
            f"more than workload.synthetic.items = {settings.items}"
        )


def contents(settings: Settings, argument: str | None) -> dict[str, Path | str]:
    """Its settings, and where texts are as long as films' the films."""
    films = assets.files_of("movielens", "films") if settings.text_tokens == "corpus" else {}
    return {"settings": settings.model_dump_json(), **films}


def unique_items(batch_size: int, slots: int, item_repetition_ratio: float) -> int:
    """U whose ratio is nearest to the asked-for one, of the U that B users with S slots each can have."""
    return min(max(round(batch_size * slots / item_repetition_ratio), slots), batch_size * slots)


def build(settings: Settings, request: WorkloadRequest) -> Workload:
    """Item 0 is the most popular of the catalogue. Raises ValueError as `check` does."""
    import torch

    from gram_core.batch import Batch, ItemTable

    check(settings, request)
    users, history = request.batch_size, request.history_length
    slots = slots_per_user(history, request.candidates, request.task)
    unique = unique_items(users, slots, float(request.item_repetition_ratio or 1))
    slots_of = _zipf.counts(users * slots, unique, users, settings.zipf)
    popularity = _zipf.weights(settings.items, settings.zipf)

    def batch(step: int) -> Batch:
        rng = np.random.default_rng([request.seed, _BATCH, step])
        items = _zipf.lay_out(rng, _zipf.draw(rng, popularity, unique), slots_of, users)
        mask = torch.ones(users, slots, dtype=torch.bool)
        if request.task == "ranking":
            targets = torch.from_numpy(rng.integers(request.candidates, size=users))
        else:
            targets = torch.from_numpy(rng.integers(2, size=(users, slots)).astype(np.float32))
        return Batch(torch.from_numpy(items), mask, targets, history)

    tokens, offsets = _texts(settings, request)
    table = ItemTable(torch.from_numpy(tokens), torch.from_numpy(offsets))
    facts = {
        "items": settings.items,
        "zipf": settings.zipf,
        "text_tokens": settings.text_tokens,
        "mean_text_tokens": float(np.diff(offsets).mean()),
        "asked_item_repetition_ratio": request.item_repetition_ratio,
        "item_repetition_ratio": users * slots / unique,
    }
    return Workload(table, batch, settings.steps_per_epoch, facts, "synthetic")


def _texts(settings: Settings, request: WorkloadRequest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random token ids [T] between opening and closing tokens, and where each text starts [I + 1]."""
    rng = np.random.default_rng([request.seed, _TABLE])
    return random_texts(_lengths(settings, request, rng), request, rng)


def _lengths(settings: Settings, request: WorkloadRequest, rng: np.random.Generator) -> NDArray[np.int64]:
    """Tokens per item [I], special ones included: at least one ordinary token where L has room for it."""
    most, items = request.text_length, settings.items
    if settings.text_tokens == "full":
        lengths = np.full(items, most)
    elif settings.text_tokens == "uniform":
        lengths = rng.integers(-(-most // 4), most, size=items, endpoint=True)
    elif settings.text_tokens == "lognormal":
        mu = np.log(settings.lognormal_mean * most) - settings.lognormal_sigma**2 / 2
        lengths = np.rint(rng.lognormal(mu, settings.lognormal_sigma, size=items)).astype(np.int64)
    else:
        lengths = rng.choice(_corpus_lengths(request), size=items)
    return np.clip(lengths, shortest(request), most).astype(np.int64)


def _corpus_lengths(request: WorkloadRequest) -> NDArray[np.int64]:
    """Token lengths of MovieLens' film texts."""
    if request.tokenizer is None:
        raise ValueError('workload.synthetic.text_tokens = "corpus" needs an encoder that has a tokenizer')
    films = read_log(assets.fetch("movielens")).films
    texts, _ = film_texts(films, assets.fetch("films"), "full")
    return np.diff(tokenized(texts, request.tokenizer)[1])
