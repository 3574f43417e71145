"""Item ids instead of texts: an embedding row per item, and no content encoder.

The lower bound on what items cost: the paper's NoContent. An item that training never met keeps its random row, so
that a cold one is guessed. I items of the catalogue, n items, d width.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from bench.methods import Handicap
from bench.peers._settings import IdsOnlySettings
from gram_core.batch import Batch, ItemTable, Texts, unique_items
from gram_core.methods._base import MethodBase
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Optimization, Training

INITIAL_STD = 0.02
"""Of the random rows: what language models start their embedding tables with."""


class ItemEmbedding(nn.Module):
    """A content encoder whose texts are one token each, the item's id (see `table_of_ids`)."""

    def __init__(self, items: int, width: int, like: Tensor):
        super().__init__()
        self.width = width
        rows = torch.empty(items, width, dtype=like.dtype, device=like.device)
        self.rows = nn.Parameter(nn.init.normal_(rows, std=INITIAL_STD))

    def forward(self, texts: Texts) -> Tensor:
        """Rows [n, d] of the items whose ids are the texts."""
        return nn.functional.embedding(texts.tokens.to(self.rows.device, non_blocking=True), self.rows)

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """None: nothing is read."""
        return torch.zeros_like(lengths)


class IdsOnly(MethodBase):
    """CF module and embedding rows train together; evaluate through its own `training`."""

    name: ClassVar[str] = "ids_only"
    exactness: ClassVar[Exactness] = "other-model"
    handicaps = (
        Handicap(
            "its optimizer passes over the rows of the whole catalogue in every step, as that of a dense embedding does"
        ),
        Handicap(
            "on the fast engine at most its CF step is replayed from graphs: rows are read and moved kernel by kernel, "
            "as is everything where max_grad_norm clips rows and CF module together",
            "against graphs",
        ),
    )

    Settings = IdsOnlySettings

    def __init__(self, training: Training, settings: IdsOnlySettings | None = None):
        self.settings = settings or self.Settings()
        like = next(iter(training.encoder.parameters()))
        embedding = ItemEmbedding(len(training.table), training.encoder.width, like)
        self.training = replace(
            training,
            table=table_of_ids(len(training.table)),
            encoder=embedding,
            optimization=_optimization(training.optimization, embedding, self.settings.learning_rate),
        )

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of rows and CF module."""
        with phase("host"):
            selection = unique_items(batch)
        rows = self.training.encode(selection.items)
        if self.training.optimization.max_grad_norm is not None:  # clips both together, so neither moves by itself
            return self.training.joint_step(rows, selection.slot_rows, batch)
        loss, gradient = self.training.cf_step_and_gradient(rows, selection.slot_rows, batch)
        self.training.encoder_step(rows, gradient)
        return loss

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """No text passes any encoder."""
        return []


def table_of_ids(items: int) -> ItemTable:
    """A catalogue in which each item's only token is its id."""
    return ItemTable(torch.arange(items), torch.arange(items + 1))


def _optimization(given: Optimization, embedding: ItemEmbedding, learning_rate: float | None) -> Optimization:
    """The given one, with the rows in the encoder's place."""
    if given.encoder_optimizer is None:
        return given
    group = given.encoder_optimizer.param_groups[0]
    base = float(group.get("initial_lr", group["lr"]))
    scale = 1.0 if learning_rate is None else learning_rate / base
    optimizer = _alike(given.encoder_optimizer, embedding, float(group["lr"]) * scale)
    scheduler = given.encoder_scheduler
    if scheduler is not None:
        scheduler = _following(scheduler, given.encoder_optimizer, optimizer, base * scale)
    return replace(given, encoder_optimizer=optimizer, encoder_scheduler=scheduler)


def _alike(optimizer: Optimizer, embedding: ItemEmbedding, rate: float) -> Optimizer:
    """Another optimizer of the same kind and options, without weight decay: that would move rows nobody trains."""
    known = inspect.signature(type(optimizer)).parameters
    options: dict[str, Any] = {name: value for name, value in optimizer.defaults.items() if name in known}
    if "weight_decay" in options:
        options["weight_decay"] = 0.0
    return type(optimizer)([embedding.rows], **{**options, "lr": rate})


def _following(scheduler: LRScheduler, old: Optimizer, new: Optimizer, base: float) -> LRScheduler:
    """The same schedule for another optimizer, from another base rate."""
    LambdaLR(new, lambda _: 1.0)  # marks the optimizer as one that is scheduled, which torch looks for
    for group in new.param_groups:
        group["initial_lr"] = base
    followed = copy.deepcopy(scheduler, {id(old): new})
    followed.base_lrs = [base] * len(new.param_groups)
    return followed
