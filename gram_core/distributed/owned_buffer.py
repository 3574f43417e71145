"""Multi-step GRAM's encoding buffer, each item's rows with the rank that owns it.

The items touched are the same on every rank; what is kept of one is kept once. An owner is chosen when an item first
appears, so that each step's new items are encoded in balance. n items asked for, d width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gram_core.distributed.layout import Assign, Layout
from gram_core.distributed.ranks import Ranks
from gram_core.encoding_buffer import EncodingBuffer
from gram_core.protocols import ItemSource


class OwnedEncodingBuffer(EncodingBuffer):
    """Asked the same on every rank, it answers the same on every rank, but for `claim`, `owned` and `read`.

    Those are about the items whose rows are held here.
    """

    def __init__(
        self, width: int, device: torch.device, dtype: torch.dtype, ranks: Ranks, table: ItemSource, assign: Assign
    ):
        super().__init__(width, device, dtype)
        self._ranks, self._table, self._assign = ranks, table, assign
        self._touched = torch.empty(0, dtype=torch.int64)
        self._owner_of = torch.full((len(table),), -1, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._touched)

    @property
    def items(self) -> Tensor:
        """Every item touched, on whatever rank, in the order of first appearance."""
        return self._touched

    def missing(self, items: Tensor) -> Tensor:
        """Those of `items` [n] that no rank has yet."""
        return items[self._owner_of[items] < 0]

    def claim(self, items: Tensor) -> Tensor:
        """Divides items that nobody has yet among the ranks; returns this rank's."""
        self._owner_of[items] = self._assign(self._table.lengths[items], self._ranks.size)
        self._touched = torch.cat([self._touched, items])
        return self.owned(items)

    def most_tokens(self, items: Tensor) -> int:
        """Tokens of the rank that owns most of `items` [n]."""
        if not len(items):
            return 0
        return int(torch.bincount(self._owner_of[items], self._table.lengths[items]).max())

    def owned(self, items: Tensor) -> Tensor:
        """Those of `items` [n] whose rows are held here, in their order."""
        return items[self._owner_of[items] == self._ranks.rank]

    def moved(self, items: Tensor) -> Tensor:
        """Moved encodings [n, d] of `items` [n], from all ranks."""
        layout = self._layout(items)
        return layout.gathered(super().moved(layout.own))[layout.rows.to(self.device, non_blocking=True)]

    def place(self, items: Tensor, fit: Callable[[int], int]) -> tuple[Tensor, Tensor, int]:
        """As of every buffer: each rank reads what it holds, and has room for as many rows as the others."""
        layout = self._layout(items)
        room = fit(layout.largest_share)
        return self.filled_up(self.rows_of(layout.own), room), layout.with_rows(room).rows, room

    def move(self, items: Tensor, gradient: Tensor, rate: float) -> None:
        """Moves `items` [n] against the sum of all ranks' gradients [n, d] at this rate."""
        layout = self._layout(items)
        rows = gradient.new_zeros(self._ranks.size * layout.rows_per_rank, gradient.shape[1])
        rows[layout.rows.to(self.device, non_blocking=True)] = gradient
        super().move(layout.own, layout.collect(rows), rate)

    def clear(self) -> None:
        """Forgets every item."""
        super().clear()
        self._owner_of[self._touched] = -1
        self._touched = self._touched[:0]

    def _layout(self, items: Tensor) -> Layout:
        return Layout(items, self._owner_of[items], self._ranks)
