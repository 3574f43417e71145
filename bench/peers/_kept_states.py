"""States of items' tokens, kept once they are computed: rows of all tokens behind each other, and where items begin.

Grows with the items touched and not with the catalogue. n items, T tokens of theirs, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gram_core.batch import ItemTable

NOWHERE = -1
GROWTH = 1.5


class KeptStates:
    """Rows of width d by item and token, in `dtype`, on `place`; the index lies on the host."""

    def __init__(self, table: ItemTable, dtype: torch.dtype, place: torch.device):
        self.dtype = dtype
        self._place = place
        self._lengths, self._most = table.lengths, len(table.tokens)
        self._start = torch.full((len(table),), NOWHERE)
        self._rows: Tensor | None = None
        self._count = 0

    @property
    def nbytes(self) -> int:
        """What the rows take, room to grow included."""
        return 0 if self._rows is None else self._rows.nbytes

    def holds(self, items: Tensor) -> Tensor:
        """Whose states are kept, bool [n]."""
        return self._start[items] != NOWHERE

    def write(self, items: Tensor, states: Tensor) -> None:
        """Keeps states [T, d] of the tokens of `items` [n], one item behind the other; none of them is held yet."""
        ends = self._count + self._lengths[items].cumsum(0)
        self._start[items] = ends - self._lengths[items]
        count = self._count + len(states)
        rows = self._room_for(count, states.shape[1])
        rows[self._count : count] = states.to(self._place, self.dtype)
        self._count = count

    def read(self, items: Tensor) -> Tensor:
        """States [T, d] of the tokens of `items` [n], all of which are held, one item behind the other."""
        assert self._rows is not None, "only what is held is read"
        lengths = self._lengths[items]
        begins = lengths.cumsum(0) - lengths
        rows = torch.repeat_interleave(self._start[items] - begins, lengths) + torch.arange(int(lengths.sum()))
        return self._rows[rows.to(self._place, non_blocking=True)]

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint: items, and their rows in the same order."""
        held = torch.nonzero(self._start != NOWHERE).flatten()
        items = held[torch.argsort(self._start[held])]
        return {"items": items, "rows": torch.empty(0, 0) if self._rows is None else self._rows[: self._count]}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Becomes what `state` was taken of."""
        self._start.fill_(NOWHERE)
        self._rows, self._count = None, 0
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
