"""`mind`: Microsoft's news log as it is shipped: which of the shown news did a reader click?

Training takes a click of the train split with npratio = C - 1 news that its impression showed in vain. What is held out
is the dev split, each click among all that was shown in vain with it; an impression with two clicks counts as two,
neither among the other's candidates. Where cold items are asked for, they are drawn from those clicked in dev, and what
the train split never mentions is cold with them; a click is then among candidates as cold as itself.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.configuration.values import DataPath
from bench.workloads._base import Axes, HoldOut, Task, Workload, WorkloadRequest
from bench.workloads._io.mind_files import BEHAVIOR_FILE, NEWS_FILE, read_bodies, read_news, write_impressions
from bench.workloads._log import real_log
from bench.workloads._log.impressions import Impressions, ImpressionWriter, read, scored_batch, training_batch
from bench.workloads._log.splits import draw_cold
from bench.workloads._sampling.epoch_sampler import Examples, HeldOutExamples, Rng, ScoredSettings, sampled, workload

ASSETS: tuple[str, ...] = ()
TAKES_REPETITION_RATIO = False
HOLDS_OUT = True
REAL_TEXTS = True

_SPLIT = 20
"""Stream of random numbers under the request's seed."""


class Settings(ScoredSettings):
    """`[workload.mind]`."""

    train: DataPath | None = None
    """Folder of the train split, with news.tsv and behaviors.tsv."""
    dev: DataPath | None = None
    """Folder of the dev split: what is held out. Left out, `gram-bench run` does without."""
    texts: Literal["title", "abstract", "body"] = "title"
    """The title, or the abstract with it, or abstract and body."""
    bodies: DataPath | None = None
    """For texts = "body": a file of lines with news id, tab, body; MIND's own files hold none."""


def check(settings: Settings, axes: Axes) -> None:
    """Raises ValueError where a file is missing, for a CF module that does not rank, or for an asked-for ratio."""
    real_log.check_axes("mind", axes)
    real_log.check_task("mind", axes.task, "ranking")
    real_log.check_files("mind", train=settings.train and str(Path(settings.train) / NEWS_FILE))
    for folder in _folders(settings):
        real_log.check_files("mind", **{"train or dev": str(folder / NEWS_FILE)})
        real_log.check_files("mind", **{"train or dev": str(folder / BEHAVIOR_FILE)})
    if settings.texts == "body":
        real_log.check_files("mind", bodies=settings.bodies)


def prepare(settings: Settings, *, argument: str | None, task: Task, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Reads the files into the cache; raises MalformedData naming file and line. Returns what was left out."""
    return _log_of(settings).kept(lambda: say("reading mind's files into the cache"))[1]


def build(settings: Settings, request: WorkloadRequest) -> Workload:
    """Raises ValueError as `check` does, where the encoder has no tokenizer, there is nothing to hold out or the log is
    too short for a batch, and MalformedData naming file and line."""
    check(settings, request)
    folder, facts = _log_of(settings).kept()
    table, uncut_tokens = real_log.item_table(real_log.texts_of(folder), request, "mind")
    train = read(folder / "train")
    dev = read(folder / "dev") if settings.dev is not None else None
    examples = _examples(train, dev, len(table), settings, request)
    facts = {
        **facts,
        "items": len(table),
        "interactions": int(train.clicked.sum()),
        "interactions_per_item": int(train.clicked.sum()) / len(table),
        "texts": settings.texts,
        "mean_text_tokens": float(table.lengths.double().mean()),
        "mean_text_tokens_uncut": uncut_tokens,
    }
    return workload(examples, table, request, "mind", facts)


def _folders(settings: Settings) -> list[Path]:
    return [Path(folder) for folder in (settings.train, settings.dev) if folder is not None]


def contents(settings: Settings, argument: str | None) -> dict[str, Path | str]:
    """The files of both splits, and of the bodies where they are read."""
    found: dict[str, Path | str] = {}
    for split, folder in zip(("train", "dev"), _folders(settings), strict=False):
        found |= {f"{split}/{name}": folder / name for name in (NEWS_FILE, BEHAVIOR_FILE)}
    if settings.texts == "body":
        found["bodies"] = Path(str(settings.bodies))
    return found


def _log_of(settings: Settings) -> real_log.StoredLog:
    return real_log.StoredLog(
        "mind", contents(settings, None), (settings.texts,), lambda folder: _write(settings, folder)
    )


def _write(settings: Settings, folder: Path) -> dict[str, Any]:
    bodies = read_bodies(Path(str(settings.bodies))) if settings.texts == "body" else {}
    folders = _folders(settings)
    news, texts, dropped_news = read_news(folders, settings.texts != "title", bodies)
    facts = dropped_news.facts()
    for split, source in zip(("train", "dev"), folders, strict=False):
        writer = ImpressionWriter(folder / split)
        left_out = write_impressions(source, news, writer, split)
        writer.finish()
        facts |= {name: value for each in left_out for name, value in each.facts().items()}
        real_log.some_left(left_out[0], str(source / BEHAVIOR_FILE))
    real_log.keep_texts(folder, texts)
    return facts


def _examples(
    train: Impressions, dev: Impressions | None, item_count: int, settings: Settings, request: WorkloadRequest
) -> Examples:
    """An example is the place of a click."""
    hold_out, length = request.hold_out, request.history_length
    cold = np.zeros(item_count, dtype=bool)
    if hold_out is not None:
        if dev is None:
            raise ValueError("mind holds out its dev split: set workload.mind.dev to the folder of MINDsmall_dev")
        cold = _cold(train, dev, item_count, hold_out, request.seed)
    clicks = np.flatnonzero(train.clicked)

    def batch(chosen: NDArray[np.int64], rng: Rng) -> Any:
        return training_batch(train, chosen, length, request.candidates, cold, rng)

    splits = (None, None) if hold_out is None or dev is None else _splits(dev, cold, settings, request, hold_out)
    return Examples(clicks[~cold[train.shown[clicks]]], batch, np.flatnonzero(cold), *splits)


def _cold(train: Impressions, dev: Impressions, item_count: int, hold_out: HoldOut, seed: int) -> NDArray[np.bool_]:
    clicked = np.unique(dev.shown[dev.clicked]).astype(np.int64)
    cold = draw_cold(clicked, item_count, hold_out, seed)
    if cold.any():
        met = np.zeros(item_count, dtype=bool)
        met[train.history], met[train.shown] = True, True
        cold |= ~met
    return cold


def _splits(
    dev: Impressions, cold: NDArray[np.bool_], settings: Settings, request: WorkloadRequest, hold_out: HoldOut
) -> tuple[HeldOutExamples | None, HeldOutExamples | None]:
    """Dev's impressions for validation and test, in the proportion of their shares."""
    clicks = np.flatnonzero(dev.clicked)
    share = hold_out.validation / max(hold_out.validation + hold_out.test, 1e-12)
    impressions = len(dev.shown_starts) - 1
    is_validation = np.random.default_rng([request.seed, _SPLIT]).random(impressions) < share
    validation = is_validation[dev.of(clicks)]

    def split(found: NDArray[np.int64], number: int, asked: float) -> HeldOutExamples | None:
        if not asked:
            return None
        is_cold = cold[dev.shown[found]]
        chosen = [
            sampled(found[which], settings.scored_examples, request.seed, number) for which in (~is_cold, is_cold)
        ]
        return HeldOutExamples(
            np.concatenate(chosen),
            request.history_length + int(np.diff(dev.shown_starts).max()),
            lambda clicks, rng: scored_batch(dev, clicks, request.history_length, cold),
        )

    return split(clicks[validation], 0, hold_out.validation), split(clicks[~validation], 1, hold_out.test)
