"""What all logs of real texts share: what cannot be asked of them, their item table, and a log's two tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.workloads._base import Task, Workload, WorkloadRequest
from bench.workloads._io.tokens import tokenized
from bench.workloads._log import ranking, responses
from bench.workloads._log.interaction_log import InteractionLog
from bench.workloads._sampling.epoch_sampler import LogSettings, ScoredSettings, workload

if TYPE_CHECKING:
    from gram_core.batch import ItemTable

_MODULES = {"ranking": "nrms", "response": "dkt or sakt"}


def check_ratio(name: str, item_repetition_ratio: float | None) -> None:
    """Raises ValueError where a ratio is asked for: a log has its own."""
    if item_repetition_ratio is not None:
        raise ValueError(
            f"item_repetition_ratio = {item_repetition_ratio:g} cannot be asked of {name}: a log has its own"
        )


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
