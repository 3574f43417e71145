"""Encodings of the items touched since the encoder last moved, and how far each has moved since.

Grows with the items touched and not with the catalogue. n items asked for, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor


class EncodingBuffer:
    """Two rows of width d for each item met so far, in the order of their first appearance.

    encoded: what the encoder said; displacement: what gradients have moved it by. Their sum is the moved
    encoding, at the interval's end the pseudo-target.
    """

    def __init__(self, width: int, device: torch.device, dtype: torch.dtype):
        self._encoded = torch.empty(0, width, device=device, dtype=dtype)
        self._displacement = torch.empty_like(self._encoded)
        self._sorted_items = torch.empty(0, dtype=torch.int64)
        self._sorted_rows = torch.empty(0, dtype=torch.int64)
        self._found: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._sorted_items)

    @property
    def items(self) -> Tensor:
        """Every item held, int64 [len], in row order."""
        items = torch.empty_like(self._sorted_items)
        items[self._sorted_rows] = self._sorted_items
        return items

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self._encoded.device

    @property
    def capacity(self) -> int:
        """Rows allocated: at most twice the most ever held."""
        return len(self._encoded)

    def missing(self, items: Tensor) -> Tensor:
        """Those of `items` [n] (distinct) that have no row yet, in their order."""
        return items[self._sorted_items[self._places(items)] != items] if len(self) else items

    def claim(self, items: Tensor) -> Tensor:
        """Those of the missing `items` [n] that are to be encoded and added here: all of them."""
        return items

    def owned(self, items: Tensor) -> Tensor:
        """Those of `items` [n] whose rows are held here: all of them."""
        return items

    def add(self, items: Tensor, encodings: Tensor) -> None:
        """Rows for `items` [n] (distinct, none held yet) from encodings [n, d]."""
        start = len(self._sorted_items)
        stop = start + len(items)
        if stop > self.capacity:
            capacity = max(stop, 2 * self.capacity)
            self._encoded = _grown(self._encoded, capacity, start)
            self._displacement = _grown(self._displacement, capacity, start)
        self._encoded[start:stop] = encodings
        self._displacement[start:stop] = 0
        order = torch.argsort(items)
        places = torch.searchsorted(self._sorted_items, items[order]) + torch.arange(len(items))
        self._sorted_items = _merged(self._sorted_items, items[order], places)
        self._sorted_rows = _merged(self._sorted_rows, torch.arange(start, stop)[order], places)

    def rows_of(self, items: Tensor) -> Tensor:
        """Row numbers [n] of `items` [n], all of which are held; on the host."""
        return self._sorted_rows[self._places(items)]

    def _places(self, items: Tensor) -> Tensor:
        return torch.searchsorted(self._sorted_items, items).clamp_(max=len(self._sorted_items) - 1)

    def read(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded [n, d] and displacement [n, d] of `items` [n], copies."""
        rows = self._device_rows(items)
        return self._encoded[rows], self._displacement[rows]

    def moved(self, items: Tensor) -> Tensor:
        """Moved encodings [n, d] of `items` [n], a copy."""
        encoded, displacement = self.read(items)
        return encoded + displacement

    def move(self, items: Tensor, by: Tensor) -> None:
        """Moves `items` [n] (distinct, so that no two writes meet) by [n, d]."""
        rows = self._device_rows(items)
        self._displacement[rows] = self._displacement[rows] + by

    def clear(self) -> None:
        """Forgets every item; the memory stays for the next interval."""
        self._found = None
        self._sorted_items = self._sorted_items[:0]
        self._sorted_rows = self._sorted_rows[:0]

    def _device_rows(self, items: Tensor) -> Tensor:
        """Of the very tensor that was asked for last they are at hand: a step reads its items and then moves them."""
        if self._found is None or self._found[0] is not items:
            self._found = items, self.rows_of(items).to(self.device, non_blocking=True)
        return self._found[1]


def _grown(rows: Tensor, capacity: int, held: int) -> Tensor:
    grown = rows.new_empty(capacity, rows.shape[1])
    grown[:held] = rows[:held]
    return grown


def _merged(held: Tensor, new: Tensor, places: Tensor) -> Tensor:
    """`held` [m] with `new` [n] put in so that they stand at `places` [n] of the whole."""
    merged = held.new_empty(len(held) + len(new))
    others = torch.ones(len(merged), dtype=torch.bool)
    others[places] = False
    merged[places] = new
    merged[others] = held
    return merged
