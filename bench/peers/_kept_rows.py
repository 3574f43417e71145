"""Rows kept from earlier steps, by item: encodings, which are written over, or states of all of an item's tokens.

They grow with the items touched and not with the catalogue. n items asked for, T tokens of theirs, d width, I items of
the catalogue.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gram_core.batch import ItemTable

NEVER = -1
GROWTH = 1.5


class _KeptRows:
    """Rows [count, d], with room to grow, and where each item's begin; the index lies on the host."""

    def __init__(self, catalogue: int):
        self._place_of = torch.full((catalogue,), NEVER)
        self._forget()

    @property
    def nbytes(self) -> int:
        """What the rows take, room to grow included."""
        return 0 if self._rows is None else self._rows.nbytes

    def holds(self, items: Tensor) -> Tensor:
        """Of which of `items` [n] something is kept, bool [n]."""
        return self._place_of[items] != NEVER

    def _forget(self) -> None:
        self._place_of.fill_(NEVER)
        self._rows: Tensor | None = None
        self._count = 0


class KeptEncodings(_KeptRows):
    """Rows of width d by item; a row is written over when its item is encoded again.

    catalogue: I. device: where the rows lie; the index lies on the host.
    """

    def __init__(self, catalogue: int, device: torch.device):
        super().__init__(catalogue)
        self._device = device
        self._written_at = torch.full((catalogue,), NEVER)

    def __len__(self) -> int:
        return self._count

    def written_at(self, items: Tensor) -> Tensor:
        """The step at which each row of `items` [n] was written, int64 [n]; `NEVER` where there is none."""
        return self._written_at[items]

    def write(self, items: Tensor, encodings: Tensor, step: int = 0) -> None:
        """Keeps encodings [n, d] of `items` [n] (distinct), detached, as of this step."""
        new = items[self._place_of[items] == NEVER]
        self._place_of[new] = torch.arange(self._count, self._count + len(new))
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
        items = torch.nonzero(self._place_of != NEVER).flatten()
        rows = torch.empty(0, 0) if self._rows is None else self.read(items)
        return {"items": items, "rows": rows, "written_at": self._written_at[items]}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Becomes what `state` was taken of."""
        self._forget()
        self._written_at.fill_(NEVER)
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
        return self._place_of[items].to(self._device, non_blocking=True)


class KeptStates(_KeptRows):
    """Rows of width d by item and token, in `dtype`, on `place`; the index lies on the host."""

    def __init__(self, table: ItemTable, dtype: torch.dtype, place: torch.device):
        super().__init__(len(table))
        self.dtype = dtype
        self._place = place
        self._lengths, self._most = table.lengths, len(table.tokens)

    def write(self, items: Tensor, states: Tensor) -> None:
        """Keeps states [T, d] of the tokens of `items` [n], one item behind the other; none of them is held yet."""
        ends = self._count + self._lengths[items].cumsum(0)
        self._place_of[items] = ends - self._lengths[items]
        count = self._count + len(states)
        rows = self._room_for(count, states.shape[1])
        rows[self._count : count] = states.to(self._place, self.dtype)
        self._count = count

    def read(self, items: Tensor) -> Tensor:
        """States [T, d] of the tokens of `items` [n], all of which are held, one item behind the other."""
        assert self._rows is not None, "only what is held is read"
        lengths = self._lengths[items]
        begins = lengths.cumsum(0) - lengths
        rows = torch.repeat_interleave(self._place_of[items] - begins, lengths) + torch.arange(int(lengths.sum()))
        return self._rows[rows.to(self._place, non_blocking=True)]

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint: items, and their rows in the same order."""
        held = torch.nonzero(self._place_of != NEVER).flatten()
        items = held[torch.argsort(self._place_of[held])]
        return {"items": items, "rows": torch.empty(0, 0) if self._rows is None else self._rows[: self._count]}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Becomes what `state` was taken of."""
        self._forget()
        items = state["items"].cpu()
        if len(items):
            self.write(items, state["rows"])

    def _room_for(self, count: int, width: int) -> Tensor:
        if self._rows is None or count > len(self._rows):
            room = min(self._most, max(count, int(GROWTH * count)))
            grown = torch.zeros(room, width, dtype=self.dtype, device=self._place)
            if self._rows is not None:
                grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        return self._rows
