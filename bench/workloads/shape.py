"""`shape:NAME`: a log drawn with the sizes of spanish, french, poj, toeic, mind or mind_body.

Users, items, interactions and mean text length are those of the paper's Table 3 (MIND's once with titles, once with
bodies); the rest is a law: popularity is Zipf's, histories and texts are lognormal. For time and memory only, since
tokens and responses are random.

`scale` makes fewer users with histories as long as ever, hence fewer interactions; the catalogue stays whole. So a
batch, and what repeats in it, is as in the whole log, while interactions per item, which bound what accumulation over
an epoch can gain, shrink with the scale.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from bench.inputs import assets
from bench.workloads._base import Axes, Task, Workload, WorkloadRequest
from bench.workloads._log import interaction_log
from bench.workloads._log.real_log import check_ratio, check_task, log_workload
from bench.workloads._sampling.epoch_sampler import LogSettings
from bench.workloads._synth import laws, synthesis
from bench.workloads._synth.synthesis import random_texts, shortest

ASSETS: tuple[str, ...] = ()
TAKES_REPETITION_RATIO = False
HOLDS_OUT = False

_TABLE = 0
"""Stream of random numbers under the request's seed."""
_RIGHT = 0.5
"""Share of right responses: they are coin flips."""


@dataclass(frozen=True)
class Shape:
    """A row of Table 3. earlier: items per user that come with the log as history and are none of its interactions."""

    title: str
    task: Task
    users: int
    items: int
    interactions: int
    text_tokens: float
    earlier: int = 0


_MIND = (750_434, 104_150, 3_760_125)
SHAPES = {
    "spanish": Shape("Spanish (Duolingo)", "response", 2_643, 4_628, 279_747, 5.32),
    "french": Shape("French (Duolingo)", "response", 1_202, 4_078, 174_749, 5.24),
    "poj": Shape("POJ", "response", 22_110, 2_597, 898_384, 271.34),
    "toeic": Shape("TOEIC", "response", 1_240_955, 9_336, 94_264_845, 147.47),
    "mind": Shape("MIND, titles", "ranking", *_MIND, 11.52, earlier=33),
    "mind_body": Shape("MIND, titles and bodies", "ranking", *_MIND, 639.57, earlier=33),
}
"""MIND's earlier clicks are an assumption: its impressions bring their users' histories along, Table 3 counts none."""


class Settings(LogSettings):
    """`[workload.shape]`."""

    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the users, and with them of the interactions; all items remain."""
    zipf: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Exponent of the items' popularity. 1 gives MIND's sizes the repetition of a sample of MIND (1.35 and 1.34 in a
    batch of 64), and MovieLens-100k's sizes a little less than its log has (3.4 and 4.5)."""
    history_sigma: Annotated[float, Field(gt=0, le=3)] = 1.0
    """Standard deviation of the logarithm of interactions per user; MovieLens-100k's is 1.0."""
    text_sigma: Annotated[float, Field(gt=0, le=3)] = 0.5
    """Standard deviation of the logarithm of tokens per text, special tokens included."""


def check(settings: Settings, axes: Axes) -> None:
    """Raises ValueError for a shape that is none, a CF module of another task, or where a ratio is asked for."""
    if axes.argument not in SHAPES:
        nearest = get_close_matches(axes.argument or "", SHAPES, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f'workload "shape:{axes.argument or ""}" names no shape; {hint}valid: {", ".join(SHAPES)}')
    check_ratio(f"shape:{axes.argument}", axes.item_repetition_ratio)
    check_task(f"shape:{axes.argument}", axes.task, SHAPES[axes.argument].task)


def contents(settings: Settings, argument: str | None) -> dict[str, Path | str]:
    """The sizes, and the settings of what is drawn with them."""
    drawn = {name: getattr(settings, name) for name in ("scale", "zipf", "history_sigma", "text_sigma")}
    return {"settings": f"{SHAPES[str(argument)]} {drawn}"}


def build(settings: Settings, request: WorkloadRequest) -> Workload:
    """Raises ValueError as `check` does or where the log is too short for a batch, `AssetError` where the
    cache cannot hold it. The log depends on the settings alone; tokens, order and negatives on the seed too."""
    import torch

    from gram_core.batch import ItemTable

    check(settings, request)
    name = f"shape:{request.argument}"
    shape = SHAPES[str(request.argument)]
    log = synthesized(shape, settings)
    rng = np.random.default_rng([request.seed, _TABLE])
    uncut = laws.sizes(
        rng, shape.items, round(shape.text_tokens * shape.items), settings.text_sigma, shortest(request), 1 << 20
    )
    tokens, offsets = random_texts(np.minimum(uncut, request.text_length), request, rng)
    table = ItemTable(torch.from_numpy(tokens), torch.from_numpy(offsets))
    facts = {
        "log": f"drawn at random with the sizes of {shape.title}",
        "scale": settings.scale,
        "users": log.users,
        "items": log.item_count,
        "interactions": log.interactions,
        "interactions_per_item": log.interactions / log.item_count,
        "interactions_per_item_at_scale_1": shape.interactions / shape.items,
        "popularity": f"Zipf, exponent {settings.zipf:g}, no item twice with a user",
        "history_lengths": f"lognormal, sigma {settings.history_sigma:g}",
        **({"earlier_clicks_per_user": shape.earlier} if shape.earlier else {}),
        "text_lengths": f"lognormal, sigma {settings.text_sigma:g}, special tokens included",
        "mean_text_tokens": float(table.lengths.double().mean()),
        "mean_text_tokens_uncut": float(uncut.mean()),
        **({"responses": "coin flips"} if shape.task == "response" else {}),
    }
    return replace(log_workload(log, table, settings, request, name, facts), log="synthetic")


def prepare(settings: Settings, *, argument: str | None, task: Task, say: Callable[[str], None]) -> None:
    """Draws the log into the cache: TOEIC's 94 million interactions take a minute or more."""
    shape = SHAPES[str(argument)]
    synthesized(shape, settings, lambda: say(f"drawing {round(shape.interactions * settings.scale):,} interactions"))


def synthesized(
    shape: Shape, settings: Settings, announce: Callable[[], None] = lambda: None
) -> interaction_log.InteractionLog:
    """The log, from the cache if it was drawn before."""
    users = max(1, round(shape.users * settings.scale))
    interactions = max(users, round(shape.interactions * settings.scale))
    most = shape.items // 2  # a user meets half of the catalogue at most

    def draw(folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        lengths = laws.sizes(rng, users, interactions, settings.history_sigma, 1, most)
        earlier = np.zeros_like(lengths)
        if shape.earlier:
            earlier = laws.sizes(rng, users, users * shape.earlier, settings.history_sigma, 1, most)
        popularity = laws.weights(shape.items, settings.zipf)
        right = _RIGHT if shape.task == "response" else 1.0
        with interaction_log.LogWriter(folder) as writer:
            synthesis.write(writer, rng, popularity, lengths + earlier, earlier, right)
            writer.finish(shape.items)
        return {}

    drawn = (settings.zipf, settings.history_sigma, shape.earlier, shape.task)
    sizes = (users, shape.items, interactions)
    folder, _ = assets.kept(
        "logs", f"{interaction_log.FORMAT} shape {sizes} {drawn} numpy {np.__version__}", draw, announce
    )
    return interaction_log.read(folder)
