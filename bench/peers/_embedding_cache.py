"""Encodings kept from earlier steps: one row for each item met so far, on the device, and when each was written.

Grows with the items touched and not with the catalogue. n items asked for, d width, I items of the catalogue.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = -1


class KeptEncodings:
    """Rows of width d by item; a row is written over when its item is encoded again.

    catalogue: I. device: where the rows lie; the index lies on the host.
    """

    def __init__(self, catalogue: int, device: torch.device):
        self._device = device
        self._row_of = torch.full((catalogue,), NEVER)
        self._written_at = torch.full((catalogue,), NEVER)
        self._rows: Tensor | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """What the rows take, room to grow included."""
        return 0 if self._rows is None else self._rows.nbytes

    def holds(self, items: Tensor) -> Tensor:
        """Which of `items` [n] have a row, bool [n]."""
        return self._row_of[items] != NEVER

    def written_at(self, items: Tensor) -> Tensor:
        """The step at which each row of `items` [n] was written, int64 [n]; `NEVER` where there is none."""
        return self._written_at[items]

    def write(self, items: Tensor, encodings: Tensor, step: int = 0) -> None:
        """Keeps encodings [n, d] of `items` [n] (distinct), detached, as of this step."""
        new = items[self._row_of[items] == NEVER]
        self._row_of[new] = torch.arange(self._count, self._count + len(new))
        self._count += len(new)
        self._written_at[items] = step
        self._grow(encodings)
        assert self._rows is not None, "it has grown"
        self._rows[self._device_rows(items)] = encodings.detach()

    def read(self, items: Tensor) -> Tensor:
        """Encodings [n, d] of `items` [n], all of which are held; a copy without a graph."""
        assert self._rows is not None, "only what is held is read"
        return self._rows[self._device_rows(items)]

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint: items, rows in the same order, the steps they were written at."""
        items = torch.nonzero(self._row_of != NEVER).flatten()
        rows = torch.empty(0, 0) if self._rows is None else self.read(items)
        return {"items": items, "rows": rows, "written_at": self._written_at[items]}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Becomes what `state` was taken of."""
        self._row_of.fill_(NEVER)
        self._written_at.fill_(NEVER)
        self._rows, self._count = None, 0
        items = state["items"].cpu()
        if len(items):
            self.write(items, state["rows"].to(self._device))
            self._written_at[items] = state["written_at"].cpu()

    def _grow(self, like: Tensor) -> None:
        capacity = 0 if self._rows is None else len(self._rows)
        if self._count > capacity:
            grown = torch.zeros(max(self._count, 2 * capacity), like.shape[1], device=self._device, dtype=like.dtype)
            if self._rows is not None:
                grown[:capacity] = self._rows
            self._rows = grown

    def _device_rows(self, items: Tensor) -> Tensor:
        return self._row_of[items].to(self._device, non_blocking=True)
