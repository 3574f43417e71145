"""Who owns which item, and the exchange of owners' rows.

U items, W ranks, m rows per rank (the largest share; smaller ones are filled up with zeros), d width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gram_core.batch import Selection, mapped
from gram_core.distributed.ranks import Ranks
from gram_core.small_numbers import stable_order
from gram_core.training import Share

Exchange = Callable[[Tensor], Tensor]
Assign = Callable[[Tensor, int], Tensor]
"""Tokens [U] of items, and W -> the owner of each, [U]; the same on every rank."""


def balanced_owners(tokens: Tensor, size: int) -> Tensor:
    """Owners [U] of items with so many `tokens` [U]: shares differ by one item and by one text's tokens at most.

    Longest first, dealt forwards and backwards in turn, so that what one round gives a rank too much, the next takes.
    """
    order = torch.argsort(tokens, descending=True, stable=True)
    places = torch.arange(len(tokens))
    seat, backwards = places % size, (places // size) % 2 == 1
    owners = torch.empty_like(places)
    owners[order] = torch.where(backwards, size - 1 - seat, seat)
    return owners


class Layout:
    """Items [U] and their owners [U], as rows of a table [W m, d] in which each rank's own rows are one stretch.

    rows_per_rank: m, at least the largest share; None takes that.
    """

    def __init__(self, items: Tensor, owners: Tensor, ranks: Ranks, rows_per_rank: int | None = None):
        self.ranks = ranks
        self._owners = owners
        counts = torch.bincount(owners, minlength=ranks.size)
        self.largest_share = int(counts.max()) if len(items) else 0
        """Items of the rank that has most."""
        self.rows_per_rank = self.largest_share if rows_per_rank is None else rows_per_rank
        order = stable_order(owners)
        starts = torch.cumsum(counts, 0) - counts
        self._places = torch.empty_like(owners)
        self._places[order] = torch.arange(len(items)) - torch.repeat_interleave(starts, counts)
        self.items = items
        self.own = items[owners == ranks.rank]
        """This rank's items, in their order."""

    @property
    def rows(self) -> Tensor:
        """Row of each item, [U]."""
        return self._owners * self.rows_per_rank + self._places

    def with_rows(self, rows_per_rank: int) -> Layout:
        """The same items and owners, with room for so many rows of each rank."""
        other = copy.copy(self)
        other.rows_per_rank = rows_per_rank
        return other

    def spread(self, own: Tensor) -> Tensor:
        """This rank's rows [len(own), d] -> everybody's [W m, d]; differentiable."""
        return _Spread.apply(own, self.gathered, self.collect)

    def gathered(self, own: Tensor) -> Tensor:
        """The same without a graph."""
        return self.ranks.all_gather(F.pad(own, (0, 0, 0, self.rows_per_rank - len(own))))

    def collect(self, rows: Tensor) -> Tensor:
        """Everybody's contributions [W m, d] -> their sum for this rank's rows [len(own), d]."""
        return self.ranks.reduce_scatter(rows)[: len(self.own)]


def spread_evenly(own: Tensor, ranks: Ranks) -> Tensor:
    """This rank's rows [m, d], as many as every rank has -> everybody's [W m, d]; differentiable."""
    return _Spread.apply(own, ranks.all_gather, ranks.reduce_scatter)


class _Spread(torch.autograd.Function):
    """All-gather, whose backward is a reduce-scatter: each row's gradient arrives from every rank that reads it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, gather: Exchange, collect: Exchange) -> Tensor:
        ctx.collect = collect
        return gather(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.collect(gradient), None, None


class OwnedShare(Share):
    """The share of a batch's items that this rank owns, in a layout that all ranks have in common."""

    def __init__(self, selection: Selection, layout: Layout):
        self._layout = layout
        self.items = layout.own
        rows = layout.rows[torch.searchsorted(layout.items, selection.items)]
        self.slot_rows = mapped(selection.slot_rows, rows)

    def spread(self, encodings: Tensor) -> Tensor:
        """Encodings of `items` [m, d] -> everybody's [n, d]."""
        return self._layout.spread(encodings)

    def collect(self, gradient: Tensor) -> Tensor:
        """dL/d rows [n, d] of this rank's users -> dL/d encodings of `items` [m, d], of all users."""
        return self._layout.collect(gradient)
