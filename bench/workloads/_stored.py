"""A log of files as it is kept in the cache: its arrays, its items' texts, and what reading it was like."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads import _log
from bench.workloads._base import MalformedData, Workload, WorkloadRequest
from bench.workloads._dropped import Dropped
from bench.workloads._examples import ScoredSettings
from bench.workloads._kept import content_hash, kept
from bench.workloads._real_log import item_table, log_workload

_TEXTS = "texts.json"


def key(name: str, files: Sequence[Path], *settings: object) -> str:
    """What a log in the cache is made of: the files' contents, whatever they are called, and the settings."""
    return " ".join([str(_log.FORMAT), name, *map(content_hash, files), *map(repr, settings)])


def keep_texts(folder: Path, texts: Sequence[str]) -> None:
    """One text per item."""
    (folder / _TEXTS).write_text(json.dumps(texts), encoding="utf-8")


def texts_of(folder: Path) -> list[str]:
    """As they were kept."""
    texts: list[str] = json.loads((folder / _TEXTS).read_text(encoding="utf-8"))
    return texts


def stored_log(
    name: str,
    content: str,
    make: Callable[[Path], dict[str, Any]],
    settings: ScoredSettings,
    request: WorkloadRequest,
) -> Workload:
    """The workload of an interaction log that `make` writes, with its texts, where the cache has no such content."""
    folder, facts = kept("logs", content, make)
    table, uncut_tokens = item_table(texts_of(folder), request, name)
    log = _log.read(folder)
    facts = {
        **facts,
        "users": log.users,
        "items": log.item_count,
        "interactions": log.interactions,
        "interactions_per_item": log.interactions / log.item_count,
        **({"share_of_right_responses": float(np.mean(log.labels))} if request.task == "response" else {}),
        "mean_text_tokens": float(table.lengths.double().mean()),
        "mean_text_tokens_uncut": uncut_tokens,
    }
    return log_workload(log, table, settings, request, name, facts)


def check_files(name: str, **paths: str | None) -> None:
    """Raises ValueError where a path of `[workload.NAME]` is not set, or leads to no file."""
    for setting, path in paths.items():
        if path is None:
            raise ValueError(
                f"{name} needs files of your own: set workload.{name}.{setting} (bench.toml tells what they hold)"
            )
        if not Path(path).expanduser().is_file():
            raise ValueError(f"workload.{name}.{setting}: there is no file {path}")


def some_left(dropped: Dropped, files: str) -> None:
    """Raises MalformedData, with the reasons, where nothing of a log is left."""
    if dropped.left == 0:
        what = dropped.what.replace("_", " ")
        raise MalformedData(
            f"{files}: no interaction is left to train on; of {dropped.read:,} {what} all were dropped{dropped.why()}"
        )
