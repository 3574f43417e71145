"""A log of files as it is kept in the cache: its arrays, its items' texts, and what reading it was like."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.inputs import assets, hashes
from bench.workloads._base import MalformedData, Workload, WorkloadRequest
from bench.workloads._io.dropped import Dropped
from bench.workloads._log import interaction_log
from bench.workloads._log.real_log import item_table, log_workload
from bench.workloads._sampling.epoch_sampler import ScoredSettings

_TEXTS = "texts.json"


_READERS = ("pandas", "pyarrow")
"""Libraries that say what a file's fields are."""


@dataclass(frozen=True)
class StoredLog:
    """A log that is made of files: their contents, whatever they are called, and the settings decide what it is.

    write: fills a folder, and returns the facts of what it read.
    """

    name: str
    contents: Mapping[str, Path | str]
    settings: tuple[object, ...]
    write: Callable[[Path], dict[str, Any]]

    def kept(self, announce: Callable[[], None] = lambda: None) -> tuple[Path, dict[str, Any]]:
        """Its folder in the cache and its facts, made where the cache lacks them; raises MalformedData."""
        key = self._key()

        def make(folder: Path) -> dict[str, Any]:
            facts = self.write(folder)
            if self._key() != key:
                raise MalformedData(f"the files of {self.name} changed while they were read; start again.")
            return facts

        return kept("logs", key, make, announce)

    def _key(self) -> str:
        files = {part: hashes.of_file(path) for part, path in self.contents.items() if isinstance(path, Path)}
        versions = {}
        for library in _READERS:
            with suppress(importlib.metadata.PackageNotFoundError):
                versions[library] = importlib.metadata.version(library)
        return f"{interaction_log.FORMAT} {self.name} {files} {self.settings} {versions}"


def keep_texts(folder: Path, texts: Sequence[str]) -> None:
    """One text per item."""
    (folder / _TEXTS).write_text(json.dumps(texts), encoding="utf-8")


def texts_of(folder: Path) -> list[str]:
    """As they were kept."""
    texts: list[str] = json.loads((folder / _TEXTS).read_text(encoding="utf-8"))
    return texts


def stored_log(stored: StoredLog, settings: ScoredSettings, request: WorkloadRequest) -> Workload:
    """The workload of an interaction log that is kept with its texts."""
    name = stored.name
    folder, facts = stored.kept()
    table, uncut_tokens = item_table(texts_of(folder), request, name)
    log = interaction_log.read(folder)
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


_FACTS = "facts.json"


def kept(
    kind: str, key: str, make: Callable[[Path], dict[str, Any]], announce: Callable[[], None] = lambda: None
) -> tuple[Path, dict[str, Any]]:
    """The folder that `make` fills, and the facts that it returns; made, once announced, where the cache lacks it.

    key: everything that the folder's content depends on. Raises AssetError where the cache cannot be written, and what
    `make` raises, of which nothing is kept. Two processes may make the same folder at once: the first to finish wins.
    """
    folder = assets.cache_dir() / kind / hashlib.sha256(key.encode()).hexdigest()
    facts = folder / _FACTS
    if not facts.is_file():
        announce()
        with assets.scratch_folder() as scratch:
            made = scratch / "made"
            made.mkdir()
            (made / _FACTS).write_text(json.dumps(make(made)), encoding="utf-8")
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                made.rename(folder)
            except OSError:
                if not facts.is_file():
                    raise
    return folder, json.loads(facts.read_text(encoding="utf-8"))
