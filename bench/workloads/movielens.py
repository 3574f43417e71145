"""`movielens`: MovieLens-100k, real ratings of real films with real texts.

Ranking: a user's latest H films before a film, that film, and C - 1 films which the user never rated. Response
prediction: stretches of H ratings, was each 4 or 5? Either way every target comes once in an epoch.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from bench.inputs import assets
from bench.workloads._base import Axes, Workload, WorkloadRequest
from bench.workloads._io.movielens_files import film_texts, read_log
from bench.workloads._log.interaction_log import InteractionLog
from bench.workloads._log.real_log import check_axes, item_table, log_workload
from bench.workloads._sampling.epoch_sampler import LogSettings

ASSETS = ("movielens", "films")
TAKES_REPETITION_RATIO = False
HOLDS_OUT = True
REAL_TEXTS = True

LIKED = 4
"""The least rating that counts as a positive response."""


class Settings(LogSettings):
    """`[workload.movielens]`."""

    texts: Literal["title", "full"] = "full"
    """Title, year and genres, or also director, writers, cast, countries and languages where they are known."""


def check(settings: Settings, axes: Axes) -> None:
    """Raises ValueError where an argument or a ratio is asked for: a log has its own."""
    check_axes("movielens", axes)


def contents(settings: Settings, argument: str | None) -> dict[str, Path | str]:
    """The assets' files, as far as they have been fetched."""
    return {**assets.files_of(*ASSETS)}


def build(settings: Settings, request: WorkloadRequest) -> Workload:
    """Raises ValueError as `check` does, or where the encoder has no tokenizer or the log is too short for a batch,
    `bench.inputs.assets.AssetError` where the files cannot be had."""
    check(settings, request)
    found = read_log(assets.fetch("movielens"))
    texts, known = film_texts(found.films, assets.fetch("films"), settings.texts)
    table, uncut_tokens = item_table(texts, request, "movielens")
    log = InteractionLog(
        found.starts,
        found.items.astype(np.int32),
        (found.ratings >= LIKED).astype(np.uint8),
        found.starts[:-1],
        len(found.films),
    )
    facts = {
        "users": log.users,
        "items": log.item_count,
        "ratings": log.interactions,
        "items_with_known_film": int(known.sum()),
        "share_of_ratings_with_known_film": float(known[found.items].mean()),
        "texts": settings.texts,
        "mean_text_tokens": float(table.lengths.double().mean()),
        "mean_text_tokens_uncut": uncut_tokens,
    }
    return log_workload(log, table, settings, request, "movielens", facts)
