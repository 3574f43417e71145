"""`synthetic`: random texts and batches whose item repetition ratio is the one asked for, exactly."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.configuration.values import Table
from bench.inputs import assets
from bench.workloads._base import Axes, Workload, WorkloadRequest
from bench.workloads._io.movielens_files import film_texts, read_log
from bench.workloads._io.tokens import tokenized
from bench.workloads._sampling import drawn_batches
from bench.workloads._synth.synthesis import random_texts, shortest

ASSETS: tuple[str, ...] = ()
TAKES_REPETITION_RATIO = True
HOLDS_OUT = False

_TABLE = 0
"""Stream of random numbers under the request's seed; 1 is that of batches."""


class Settings(Table):
    """`[workload.synthetic]`."""

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
    """What "1E" of accumulation_steps means."""


def check(settings: Settings, axes: Axes) -> None:
    """Raises ValueError, naming the bound, where no batch has the asked-for ratio."""
    drawn_batches.check("synthetic", settings.items, axes)


def contents(settings: Settings, argument: str | None) -> dict[str, Path | str]:
    """Its settings, and where texts are as long as films' the films."""
    films = assets.files_of("movielens", "films") if settings.text_tokens == "corpus" else {}
    return {"settings": settings.model_dump_json(), **films}


def build(settings: Settings, request: WorkloadRequest) -> Workload:
    """Item 0 is the most popular of the catalogue. Raises ValueError as `check` does."""
    import torch

    from gram_core.batch import ItemTable

    check(settings, request)
    batches, ratio = drawn_batches.batches(settings.items, settings.zipf, request)
    tokens, offsets = _texts(settings, request)
    table = ItemTable(torch.from_numpy(tokens), torch.from_numpy(offsets))
    facts = {
        "items": settings.items,
        "zipf": settings.zipf,
        "text_tokens": settings.text_tokens,
        "mean_text_tokens": float(np.diff(offsets).mean()),
        "asked_item_repetition_ratio": request.item_repetition_ratio,
        "item_repetition_ratio": ratio,
    }
    return Workload(table, batches, settings.steps_per_epoch, facts, "synthetic")


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
