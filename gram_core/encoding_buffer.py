"""Encodings of the items touched since the encoder last moved; grows with them and not with the catalogue.

n items asked for, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor


class EncodingBuffer:
    """Rows of width d for the items met so far, in the order of their first appearance."""

    def __init__(self, width: int, device: torch.device, dtype: torch.dtype):
        self._rows = torch.empty(0, width, device=device, dtype=dtype)
        self._sorted_items = torch.empty(0, dtype=torch.int64)
        self._sorted_rows = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._sorted_items)

    @property
    def items(self) -> Tensor:
        """Every item held, int64 [len], in row order."""
        items = torch.empty_like(self._sorted_items)
        items[self._sorted_rows] = self._sorted_items
        return items

    @property
    def capacity(self) -> int:
        """Rows allocated: at most twice the most ever held."""
        return len(self._rows)

    def missing(self, items: Tensor) -> Tensor:
        """Those of `items` [n] (distinct) that have no row yet, in their order."""
        return items[~torch.isin(items, self._sorted_items, assume_unique=True)]

    def add(self, items: Tensor, encodings: Tensor) -> None:
        """Rows for `items` [n] (distinct, none held yet) from encodings [n, d]."""
        start, stop = len(self), len(self) + len(items)
        if stop > self.capacity:
            grown = self._rows.new_empty(max(stop, 2 * self.capacity), self._rows.shape[1])
            grown[:start] = self._rows[:start]
            self._rows = grown
        self._rows[start:stop] = encodings
        merged = torch.cat([self._sorted_items, items])
        order = torch.argsort(merged)
        self._sorted_rows = torch.cat([self._sorted_rows, torch.arange(start, stop)])[order]
        self._sorted_items = merged[order]

    def rows_of(self, items: Tensor) -> Tensor:
        """Row numbers [n] of `items` [n], all of which are held; on the host."""
        return self._sorted_rows[torch.searchsorted(self._sorted_items, items)]

    def read(self, items: Tensor) -> Tensor:
        """Encodings [n, d] of `items` [n], a copy."""
        return self._rows[self.rows_of(items).to(self._rows.device, non_blocking=True)]

    def subtract(self, items: Tensor, change: Tensor) -> None:
        """Takes change [n, d] off the rows of `items` [n] (distinct, so that no two writes meet)."""
        rows = self.rows_of(items).to(self._rows.device, non_blocking=True)
        self._rows[rows] = self._rows[rows] - change

    def clear(self) -> None:
        """Forgets every item; the memory stays for the next interval."""
        self._sorted_items = self._sorted_items[:0]
        self._sorted_rows = self._sorted_rows[:0]
