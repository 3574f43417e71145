"""A training run on several ranks: the same models and optimizers, users of its own, items shared.

B users of this rank, S slots, n items, d width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from gram_core.batch import Batch, Selection, mapped
from gram_core.distributed.end_to_end import DataParallelLoss
from gram_core.distributed.gradients import JointGradients
from gram_core.distributed.layout import OwnedShare, balanced_owners, spread_evenly
from gram_core.distributed.owned_buffer import OwnedEncodingBuffer
from gram_core.distributed.plans import ExchangeCosts, Planner
from gram_core.distributed.ranks import Ranks
from gram_core.encoding_buffer import EncodingBuffer
from gram_core.training import Placed, Share, Training

if TYPE_CHECKING:
    from gram_core.engines._captured_cf import CapturingTraining

Deduplicate = Literal["local", "global", "auto"]
AHEAD = 4
"""Batches that ranks exchange items of while one is stepped on: so far one rank's host may be behind another's before
that one waits. With one, a step of Multi-step waited 1 ms on two GPUs."""


@dataclass(kw_only=True)
class DistributedTraining(Training):
    """A `Training` whose steps are the single-process step on all ranks' users together.

    deduplicate: "global" encodes an item once among all ranks, "local" once on each rank that meets it, "auto" decides
    step by step by `costs`. Launched end-to-end training, on every slot or on a rank's own unique items, runs in
    torch's DistributedDataParallel.
    assign: chooses the owners of items; buffered: by the encoding buffer, as items first appear.
    Losses are this rank's part of the joined batch's: `joint_losses` adds them up.
    """

    ranks: Ranks
    deduplicate: Deduplicate = "local"
    assign: Callable[[Tensor, int], Tensor] = balanced_owners
    buffered: bool = False
    costs: ExchangeCosts | None = None
    _planner: Planner = field(init=False, repr=False)
    _data_parallel: DataParallelLoss = field(init=False, repr=False)

    @classmethod
    def of(
        cls,
        training: Training,
        ranks: Ranks,
        deduplicate: Deduplicate = "local",
        *,
        gradient_dtype: torch.dtype | None = None,
        copies: bool = True,
        **options: Any,
    ) -> DistributedTraining:
        """This rank's part of a training run; every rank starts from rank 0's weights.

        gradient_dtype, copies: how gradients are summed, see `JointGradients`. options: `assign`, `costs`.
        """
        parts = {part.name: getattr(training, part.name) for part in fields(Training) if part.init}
        parts["optimization"] = replace(training.optimization, joint=JointGradients(ranks, gradient_dtype, copies))
        modules = (training.encoder, training.cf_module)
        ranks.alike([p for module in modules for p in module.parameters() if not isinstance(p, DTensor)])
        return cls(**parts, ranks=ranks, deduplicate=deduplicate, **options)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.deduplicate == "auto" and self.costs is None:
            raise ValueError('deduplicate "auto" weighs what an exchange costs: give `costs`, measured on these ranks')
        joint_items = self.deduplicate != "local"
        assign = None if self.buffered else self.assign
        costs = self.costs if self.deduplicate == "auto" else None
        self._planner = Planner(self.ranks, self.table, self.cf_module, joint_items, assign, costs)
        self._data_parallel = DataParallelLoss(self)
        self._sharded = any(isinstance(parameter, DTensor) for parameter in self.encoder.parameters())

    def ahead(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; while one is stepped on, the ranks tell each other about the next few."""
        upcoming = iter(batches)
        announced: deque[Batch] = deque()
        while True:
            for batch in islice(upcoming, 1 + AHEAD - len(announced)):
                self._planner.announce(batch)
                announced.append(batch)
            if not announced:
                return
            yield announced.popleft()

    def planned(self, batches: Iterable[Batch]) -> list[Batch]:
        """The same batches, all planned when this returns: nothing is left to wait for on the host."""
        made = list(batches)
        for batch in made:
            self._planner.announce(batch)
        self._planner.settle()
        return made

    def muted(self) -> AbstractContextManager[None]:
        """Within, steps take place without communication on the device: to be timed, not to be learned from."""
        return self.ranks.muted()

    @property
    def capturable(self) -> bool:
        """Whether a whole step may be captured, and do without communication: not where the encoder itself lies on
        several ranks."""
        return not self._sharded

    def encode(self, items: Tensor) -> Tensor:
        """Encodings [n, d]; none for no items. A sharded encoder runs even then, for the other ranks wait for it."""
        if len(items):
            return super().encode(items)
        if self._sharded:
            return super().encode(torch.zeros(1, dtype=torch.int64))[:0]
        like = next(iter(self.encoder.parameters()))
        return like.new_zeros(0, self.encoder.width, requires_grad=torch.is_grad_enabled())

    def share(self, selection: Selection, batch: Batch) -> Share:
        """This rank's share of the items that all ranks' batches hold, or its own items where those aren't shared."""
        plan = self._planner.begin(batch)
        if plan.layout is None or not selection.distinct:
            return Share(selection)
        return OwnedShare(selection, plan.layout)

    def placed(self, selection: Selection, batch: Batch, fit: Callable[[int], int]) -> Placed:
        """As `share`, every rank's part with the same room for rows: the largest one's, which `fit` rounds."""
        plan = self._planner.begin(batch)
        weighted = self.weighted(batch)
        if plan.layout is None or not selection.distinct:
            return Placed(selection.items, selection.slot_rows[: weighted.users], weighted)
        rows = fit(plan.layout.largest_share)
        share = OwnedShare(selection, plan.layout.with_rows(rows))
        return Placed(share.items, share.slot_rows[: weighted.users], weighted, rows, plan.most_tokens)

    def weighted(self, batch: Batch) -> Batch:
        """The batch with its weight in the joined loss; without users where it has no term in it."""
        plan = self._planner.current(batch)
        weight = torch.tensor([plan.weight], dtype=torch.float64)
        if plan.empty:
            return Batch(batch.items[:0], batch.mask[:0], batch.targets[:0], batch.history_length, weight=weight)
        return replace(batch, weight=weight)

    def spread(self, encodings: Tensor) -> Tensor:
        """Encodings [m, d] of every rank, in the order of ranks, [W m, d]; differentiable."""
        return spread_evenly(encodings, self.ranks)

    def collect(self, gradient: Tensor) -> Tensor:
        """Gradients [W m, d] -> their sum over ranks for this rank's rows [m, d]."""
        return self.ranks.reduce_scatter(gradient)

    def agreed(self, objection: str | None) -> str | None:
        """The first rank's that objects."""
        return next((found for found in self.ranks.all_values(objection) if found is not None), None)

    @property
    def processes(self) -> int:
        """How many ranks there are."""
        return self.ranks.size

    @property
    def silent(self) -> bool:
        """Whether nothing crosses now."""
        return self.ranks.silent

    def joined(self, batch: Batch) -> Selection:
        """Unique items of all ranks, sorted, and this rank's slots among them."""
        plan = self._planner.begin(batch)
        assert plan.items is not None, "jointly() comes first"
        assert plan.own is not None, "the same"
        rows = torch.searchsorted(plan.items, plan.own.items)
        return Selection(plan.items, mapped(plan.own.slot_rows, rows), distinct=True)

    @property
    def gradient_sums(self) -> str:
        """How gradients are summed over ranks, and why no better, in a few words."""
        assert self.optimization.joint is not None, "DistributedTraining.of sets it"
        return self.optimization.joint.way

    def shares_items(self, batch: Batch) -> bool:
        """Whether a planned batch's items are shared among ranks, where the method encodes unique ones."""
        return self._planner.shared.get(batch, False)

    def capturing(self) -> CapturingTraining:
        """The same for captured steps."""
        from gram_core.distributed.captured import CapturingDistributedTraining

        return CapturingDistributedTraining.over(self)

    def jointly(self) -> DistributedTraining:
        """The same, deduplicating globally, owners chosen by the encoding buffer."""
        return replace(self, deduplicate="global", buffered=True)

    def encoding_buffer(self) -> EncodingBuffer:
        """Rows where their owners are."""
        dtype = next(iter(self.encoder.parameters())).dtype
        return OwnedEncodingBuffer(self.encoder.width, self.device, dtype, self.ranks, self.table, self.assign)

    def has_terms(self, batch: Batch) -> bool:
        """Whether the joined batch's loss has a term of this rank."""
        return not self._planner.current(batch).empty

    def loss_terms(self, batch: Batch) -> int:
        """Terms of the joined batch's loss."""
        return self._planner.current(batch).terms

    def loss(self, slots: Tensor, batch: Batch) -> Tensor:
        """This rank's part of the joined batch's loss; 0, with a graph, where it has no term in it."""
        if batch.weight is not None:
            return super().loss(slots, batch) * batch.weight.to(slots.dtype)[0] if batch.users else slots.sum() * 0.0
        plan = self._planner.current(batch)
        return slots.sum() * 0.0 if plan.empty else super().loss(slots, batch) * plan.weight

    def end_to_end(self, selection: Selection, batch: Batch) -> Tensor:
        """This rank's part of the loss: through the shared items, or as DistributedDataParallel."""
        shares = self.deduplicate != "local" and selection.distinct
        if shares or self._sharded:
            return super().end_to_end(selection, batch)
        self._planner.begin(batch)
        assert self.optimization.joint is not None, "DistributedTraining.of sets it"
        self.optimization.joint.reduced = True
        return self._data_parallel(selection, batch)

    def joint_losses(self, losses: Tensor) -> Tensor:
        """The sum over ranks of [k] losses."""
        return self.ranks.host_sum(losses.detach().double().cpu())
