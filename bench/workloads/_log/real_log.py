"""What all logs of real texts share: what cannot be asked of them, their files and item table, and a log's two tasks.

A log of files is kept in the cache: its arrays, its items' texts, and what reading it was like.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.inputs import assets, hashes
from bench.workloads._base import Axes, MalformedData, Task, Workload, WorkloadRequest, no_argument
from bench.workloads._io.dropped import Dropped
from bench.workloads._io.tokens import tokenized
from bench.workloads._log import interaction_log, ranking, responses
from bench.workloads._log.interaction_log import InteractionLog
from bench.workloads._sampling.epoch_sampler import LogSettings, ScoredSettings, workload

if TYPE_CHECKING:
    from gram_core.batch import ItemTable

_MODULES = {"ranking": "nrms", "response": "dkt or sakt"}
_TEXTS = "texts.json"


_READERS = ("pandas", "pyarrow")
"""Libraries that say what a file's fields are."""


def check_ratio(name: str, ratio: float | None) -> None:
    """Raises ValueError where a ratio is asked for: a log has its own."""
    if ratio is not None:
        raise ValueError(f"item_repetition_ratio = {ratio:g} cannot be asked of {name}: a log has its own")


def check_axes(name: str, axes: Axes) -> None:
    """Raises ValueError where an argument or a ratio is asked for."""
    no_argument(name, axes.argument)
    check_ratio(name, axes.item_repetition_ratio)


def check_task(name: str, task: Task, only: Task) -> None:
    """Raises ValueError where the CF module's task is not the one that the log allows."""
    if task != only:
        holds = "clicks" if only == "ranking" else "right and wrong responses"
        raise ValueError(
            f"{name} holds {holds}, and the CF module's task is {task}; choose one whose task is {only}, such as "
            f"sweep.cf_module = {_MODULES[only]}"
        )


def no_tokenizer(name: str, encoder: str) -> str:
    """Why an encoder without a tokenizer cannot read a log's texts."""
    return (
        f"{name} has real texts, and {encoder} has no tokenizer to read them with; choose one that has, such as minilm "
        "or shape:tinybert-6-768"
    )


def item_table(texts: Sequence[str], request: WorkloadRequest, name: str) -> tuple[ItemTable, float]:
    """The texts as the encoder reads them, cut at L tokens, and their mean length before; raises ValueError where the
    encoder has no tokenizer."""
    import torch

    from gram_core.batch import ItemTable

    if request.without_texts:
        return ItemTable(torch.zeros(len(texts), dtype=torch.int64), torch.arange(len(texts) + 1)), 1.0
    if request.tokenizer is None:
        raise ValueError(no_tokenizer(name, "this encoder"))
    tokens, offsets = tokenized(texts, request.tokenizer)
    table = ItemTable(torch.from_numpy(tokens), torch.from_numpy(offsets))
    return table.truncated(request.text_length, request.closing_token_id), float(np.diff(offsets).mean())


def log_workload(
    log: InteractionLog,
    table: ItemTable,
    settings: ScoredSettings,
    request: WorkloadRequest,
    name: str,
    facts: Mapping[str, Any],
) -> Workload:
    """The log as the CF module's task reads it."""
    if request.task == "ranking":
        assert isinstance(settings, LogSettings), "only a log that can be ranked has a workload that lets it"
        examples = ranking.examples(log, settings, request, name)
    else:
        examples = responses.examples(log, settings, request)
    return workload(examples, table, request, name, facts)


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

        return assets.kept("logs", key, make, announce)

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
