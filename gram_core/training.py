"""What a method trains, and how its parameters move: shared by every method.

B users, S slots, n encodings, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gram_core.batch import Batch, Selection, unique_items
from gram_core.encoding_buffer import EncodingBuffer
from gram_core.modes import refuse_batch_statistics, refuse_parallel, tell_idle_dropout
from gram_core.phases import phase
from gram_core.protocols import CFModule, ContentEncoder, ItemSource, Joint, loss_terms

if TYPE_CHECKING:
    from gram_core.engines._captured_cf import CapturedCFStep, CapturingTraining


class Share:
    """Which of a selection's items [m] this process encodes, of the rows [n] that slots read: here all, none crosses.

    Where several train together (`gram_core.distributed`), each encodes its share, and encodings and their gradients
    cross from one to the other in `spread` and `collect`.
    """

    def __init__(self, selection: Selection):
        self.items = selection.items
        """What this process encodes, [m]."""
        self.slot_rows = selection.slot_rows
        """Which of the n rows each slot reads, [B, S]."""

    def spread(self, encodings: Tensor) -> Tensor:
        """Encodings of `items` [m, d] -> the rows that slots read [n, d]; differentiable."""
        return encodings

    def collect(self, gradient: Tensor) -> Tensor:
        """The backward of `spread`: dL/d rows [n, d] -> dL/d encodings of `items` [m, d], summed over all readers."""
        return gradient


@dataclass(frozen=True, eq=False)
class Placed:
    """A captured step's share of the work.

    items: what this process encodes, [m]; slot_rows: which row each slot reads, [B, S]; batch: with its weight.
    rows: of each process's encodings, where all processes' are read one behind the other; None where only own ones are.
    tokens: of the process that encodes most, for which all make room alike, since they wait for each other.
    """

    items: Tensor
    slot_rows: Tensor
    batch: Batch
    rows: int | None = None
    tokens: int = 0


Gather = Callable[[Tensor], Tensor]
"""Encodings [n, d] -> the encodings that slots read [B, S, d]."""


def gather_slots(encodings: Tensor, slot_rows: Tensor) -> Tensor:
    """Encodings [n, d] -> [B, S, d]: each slot reads its row of `slot_rows` [B, S]; padding slots read zeros.

    Through `F.embedding`, whose backward sums over repeats without atomics, so that it is deterministic.
    """
    rows = F.embedding(slot_rows.clamp(min=0), encodings)
    return rows * (slot_rows >= 0)[..., None]


def pass_back(encodings: Tensor, gradient: Tensor) -> None:
    """Adds to the encoder's `.grad` what dL/d encodings [n, d] makes of it: nothing where none of it learns."""
    if encodings.requires_grad:
        encodings.backward(gradient)


@dataclass
class Optimization:
    """Optimizers of encoder and CF module, optional schedulers, optional clipping.

    max_grad_norm clips the global norm: over encoder and CF module together where both step together,
    each on its own where they step at different times (multi_step).
    A frozen part has no optimizer: None.
    joint: sums gradients over processes that train together (`gram_core.distributed`).
    """

    encoder_optimizer: Optimizer | None
    cf_optimizer: Optimizer | None
    encoder_scheduler: LRScheduler | None = None
    cf_scheduler: LRScheduler | None = None
    max_grad_norm: float | None = None
    joint: Joint | None = None

    def __post_init__(self) -> None:
        for scheduler in (self.encoder_scheduler, self.cf_scheduler):
            if isinstance(scheduler, ReduceLROnPlateau):
                raise TypeError(
                    "ReduceLROnPlateau steps on a measured value, which a training step has none of: leave it out here "
                    "and call its step after each evaluation"
                )

    def step(self) -> None:
        """Clips, moves encoder and CF module, advances both schedulers, clears both gradients."""
        self.move()
        self.advance()

    def step_encoder(self) -> None:
        """The same for the encoder alone."""
        self.move(cf=False)
        self.advance(cf=False)

    def step_cf(self) -> None:
        """The same for the CF module alone."""
        self.move(encoder=False)
        self.advance(encoder=False)

    def move(self, *, encoder: bool = True, cf: bool = True) -> None:
        """The part of a step that runs on the device: clips, moves and clears."""
        optimizers = [o for o, chosen in self._optimizers(encoder, cf) if chosen]
        parameters = [p for o in optimizers for p in parameters_of(o)]
        with phase("optimizer"):
            self.reduce(parameters)
            if self.max_grad_norm is not None:
                self.clip(parameters, self.max_grad_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    def reduce(self, parameters: Sequence[Tensor]) -> None:
        """Sums the gradients of processes that train together; a single one's are whole."""
        if self.joint is not None:
            self.joint.reduce(parameters)

    def clip(self, parameters: Sequence[Tensor], max_norm: float) -> None:
        """Clips the norm of all their gradients together."""
        if self.joint is not None:
            self.joint.clip(parameters, max_norm)
        else:
            nn.utils.clip_grad_norm_(parameters, max_norm)

    def advance(self, *, encoder: bool = True, cf: bool = True) -> None:
        """The part that runs on the host: schedulers."""
        for scheduler, chosen in ((self.encoder_scheduler, encoder), (self.cf_scheduler, cf)):
            if scheduler is not None and chosen:
                scheduler.step()

    def _optimizers(self, encoder: bool, cf: bool) -> list[tuple[Optimizer, bool]]:
        pairs = ((self.encoder_optimizer, encoder), (self.cf_optimizer, cf))
        return [(optimizer, chosen) for optimizer, chosen in pairs if optimizer is not None]


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Every parameter that an optimizer moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@dataclass
class Training:
    """Items, models and optimization of one training run.

    amp_dtype: compute dtype of autocast, None for none; master weights, encodings and the loss keep
    their own dtype either way. Raises ValueError for an encoder that normalises by its batch, TypeError for a module
    that DataParallel or DistributedDataParallel wraps.
    """

    table: ItemSource
    encoder: ContentEncoder
    cf_module: CFModule
    optimization: Optimization
    amp_dtype: torch.dtype | None = None
    device: torch.device = field(init=False)
    captured: CapturedCFStep | None = field(init=False, default=None, repr=False)
    """Who tells of the graphs of CF steps that are replayed; None where none is."""
    captures: ClassVar[bool] = False
    """Whether an engine replays from graphs what it can of the steps on this training."""

    def __post_init__(self) -> None:
        refuse_parallel(self.encoder, "the encoder")
        refuse_parallel(self.cf_module, "the CF module")
        self.device = next(iter(self.encoder.parameters())).device
        if isinstance(self.encoder, nn.Module):
            refuse_batch_statistics(self.encoder, "the encoder", as_it_is=True)
            if isinstance(model := getattr(self.encoder, "model", None), nn.Module):
                tell_idle_dropout(self.encoder, model)

    @property
    def capturable(self) -> bool:
        """Whether a whole step may be captured as a graph."""
        return True

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that encoder and CF module compute in."""
        return torch.autocast(self.device.type, self.amp_dtype or torch.bfloat16, enabled=self.amp_dtype is not None)

    def encode(self, items: Tensor) -> Tensor:
        """Encodings [n, d] of `items` [n], with a graph where gradients are enabled."""
        with phase("host"):
            content = self.table.take(items)
        with phase("ce_forward"), self.autocast():
            return self.encoder(content)

    def gather(self, slot_rows: Tensor) -> Gather:
        """How slots read encodings [n, d] through `slot_rows` [B, S]."""
        return partial(gather_slots, slot_rows=slot_rows.to(self.device, non_blocking=True))

    def loss(self, slots: Tensor, batch: Batch) -> Tensor:
        """The CF module's loss on the encodings of slots [B, S, d]."""
        with self.autocast():
            return self.cf_module.loss(slots, batch.to(self.device))

    def cf_step(self, encodings: Tensor, slot_rows: Tensor, batch: Batch) -> Tensor:
        """A step of the CF module alone, on encodings [n, d] that learn nothing; returns its loss, detached.

        slot_rows: which of them each slot reads, [B, S].
        """
        return self._step_cf(encodings.detach(), slot_rows, batch)

    def cf_step_and_gradient(self, encodings: Tensor, slot_rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same, and dL/d encodings [n, d], of before the step; to be read before the next one."""
        leaf = encodings.detach().requires_grad_()
        loss = self._step_cf(leaf, slot_rows, batch)
        return loss, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def encoder_step(self, encodings: Tensor, gradient: Tensor) -> None:
        """A step of the encoder alone: from dL/d encodings [n, d] back through the graph that `encode` made."""
        with phase("ce_backward"):
            pass_back(encodings, gradient)
        self.optimization.step_encoder()

    def joint_step(self, encodings: Tensor, slot_rows: Tensor, batch: Batch) -> Tensor:
        """A step of encoder and CF module together, on encodings [n, d] with their graph; returns the loss."""
        with phase("cf"):
            loss = self.loss(self.gather(slot_rows)(encodings), batch)
        with phase("backward"):
            loss.backward()
        self.optimization.step()
        return loss.detach()

    def _step_cf(self, leaf: Tensor, slot_rows: Tensor, batch: Batch) -> Tensor:
        with phase("cf"):
            loss = self.loss(self.gather(slot_rows)(leaf), batch)
            loss.backward()
        self.optimization.step_cf()
        return loss.detach()

    def loss_terms(self, batch: Batch) -> int:
        """How many terms the mean loss of a batch has; where processes train together, of all their batches."""
        return loss_terms(self.cf_module, batch)

    def end_to_end(self, selection: Selection, batch: Batch) -> Tensor:
        """The loss of a batch with one graph from the encoder's weights on."""
        with phase("host"):
            share = self.share(selection, batch)
        rows = share.spread(self.encode(share.items))
        with phase("cf"):
            return self.loss(self.gather(share.slot_rows)(rows), batch)

    def ahead(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, to be stepped on in their order; processes that train together plan the next meanwhile."""
        return iter(batches)

    def share(self, selection: Selection, batch: Batch) -> Share:
        """Which of a selection's items are encoded here: all of them, where no other process trains along."""
        return Share(selection)

    def placed(self, selection: Selection, batch: Batch, fit: Callable[[int], int]) -> Placed:
        """What a captured step encodes and reads. fit: the rows to make room for, of so many that are needed."""
        return Placed(selection.items, selection.slot_rows, batch)

    def weighted(self, batch: Batch) -> Batch:
        """The batch with its weight among those of all processes; a single one's own."""
        return batch

    def spread(self, encodings: Tensor) -> Tensor:
        """Encodings [m, d] -> those of all processes [W m, d], each of which has m; differentiable."""
        return encodings

    def collect(self, gradient: Tensor) -> Tensor:
        """The backward of `spread`: gradients [W m, d] -> their sum over processes for this one's rows [m, d]."""
        return gradient

    def agreed(self, objection: str | None) -> str | None:
        """What one of the processes that train together objects, if any does; to be asked by all of them at once."""
        return objection

    @property
    def processes(self) -> int:
        """How many train together."""
        return 1

    @property
    def silent(self) -> bool:
        """Whether nothing crosses between processes now (`gram_core.distributed.Ranks.muted`)."""
        return False

    def joined(self, batch: Batch) -> Selection:
        """Unique items of all processes that train together, and this one's slots among them; a single one's own."""
        return unique_items(batch)

    def capturing(self) -> CapturingTraining:
        """The same training for steps that are captured as graphs."""
        from gram_core.engines._captured_cf import CapturingTraining

        return CapturingTraining.over(self)

    def jointly(self) -> Training:
        """This training, its items shared among all processes whatever its settings say; a single one's own."""
        return self

    def encoding_buffer(self) -> EncodingBuffer:
        """Where moved encodings are kept between steps; empty."""
        return EncodingBuffer(self.encoder.width, self.device, next(iter(self.encoder.parameters())).dtype)

    def joint_losses(self, losses: Tensor) -> Tensor:
        """Losses of steps [k] as the method returned them -> those of all processes' users together."""
        return losses
