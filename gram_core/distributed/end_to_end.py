"""End-to-end training on several ranks as anyone would write it: torch's DistributedDataParallel around the loss.

Its gradients are averaged over ranks while the backward pass still runs; a loss that counts W times makes the average a
sum, since each rank's loss is its part of the joined batch's already.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gram_core.batch import Batch, Selection
from gram_core.chunking import RandomState

if TYPE_CHECKING:
    from gram_core.distributed.training import DistributedTraining


class _CountedTimes(torch.autograd.Function):
    """A loss as it is, whose gradient counts so many times."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, times: int) -> Tensor:
        ctx.times = times
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.times, None


class _Loss(nn.Module):
    """The loss as one module's forward, which is what DistributedDataParallel wraps.

    used: parameters that have a gradient on some rank; all of them take part where this rank has no term of the loss.
    """

    def __init__(self, training: DistributedTraining):
        super().__init__()
        self._training = (training,)  # no submodule: what moves is listed here
        self.moving = nn.ParameterList(
            p for part in (training.encoder, training.cf_module) for p in part.parameters() if p.requires_grad
        )
        self.used: list[Tensor] = []

    def forward(self, selection: Selection, batch: Batch) -> Tensor:
        (training,) = self._training
        if not training.has_terms(batch):
            return sum((parameter.sum() for parameter in self.used), torch.zeros((), device=training.device)) * 0.0
        slots = training.gather(selection.slot_rows)(training.encode(selection.items))
        return training.loss(slots, batch)


class DataParallelLoss:
    """This rank's part of a batch's loss; its backward leaves the joined batch's gradient on every rank.

    Built at the first call, which looks which parameters the loss uses: torch has to know whether it uses them all.
    """

    def __init__(self, training: DistributedTraining):
        self._training = training
        self._wrapped: DistributedDataParallel | None = None

    def __call__(self, selection: Selection, batch: Batch) -> Tensor:
        """The loss, with a graph."""
        if self._wrapped is None:
            self._wrapped = self._wrap(_Loss(self._training), selection, batch)
        with self._wrapped.no_sync() if self._training.ranks.silent else nullcontext():
            loss = self._wrapped(selection, batch)
        return _CountedTimes.apply(loss, self._training.ranks.size)

    def _wrap(self, loss: _Loss, selection: Selection, batch: Batch) -> DistributedDataParallel:
        moving = list(loss.parameters())
        gradients: Sequence[Tensor | None] = [None] * len(moving)
        if self._training.has_terms(batch):
            with RandomState.now(self._training.device).replayed():
                gradients = torch.autograd.grad(loss(selection, batch), moving, allow_unused=True)
        ranks = self._training.ranks
        used = ranks.host_max(torch.tensor([g is not None for g in gradients], dtype=torch.uint8))
        loss.used = [p for p, is_used in zip(moving, used.tolist(), strict=True) if is_used]
        some_unused = len(loss.used) < len(moving)
        return DistributedDataParallel(loss, process_group=ranks.device_group, find_unused_parameters=some_unused)
