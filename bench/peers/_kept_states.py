"""States of items' tokens, kept once they are computed: rows of all tokens behind each other, and where items begin.

Grows with the items touched and not with the catalogue. n items, L tokens padded, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gram_core.batch import ItemTable

NOWHERE = -1
GROWTH = 1.5


class KeptStates:
    """Rows of width d by item and token, in `dtype`, on `place`; the index lies on the host.

    Row 0 is zeros: what is read where a padded text has no token.
    """

    def __init__(self, table: ItemTable, dtype: torch.dtype, place: torch.device):
        self._lengths = table.lengths
        self._most = len(table.tokens) + 1
        self._dtype, self._place = dtype, place
        self._start = torch.full((len(table),), NOWHERE)
        self._rows: Tensor | None = None
        self._count = 1

    @property
    def nbytes(self) -> int:
        """What the rows take, room to grow included."""
        return 0 if self._rows is None else self._rows.nbytes

    def holds(self, items: Tensor) -> Tensor:
        """Whose states are kept, bool [n]."""
        return self._start[items] != NOWHERE

    def write(self, items: Tensor, states: Tensor) -> None:
        """Keeps what padded states [n, L, d] say of `items` [n], none of which is held yet."""
        lengths = self._lengths[items]
        mask = torch.arange(states.shape[1]) < lengths[:, None]
        places = torch.nonzero(mask.flatten()).flatten().to(states.device, non_blocking=True)
        new = states.flatten(0, 1)[places]
        ends = self._count + lengths.cumsum(0)
        self._start[items] = ends - lengths
        rows = self._room_for(int(ends[-1]), states.shape[2])
        rows[self._count : int(ends[-1])] = new.to(self._place, self._dtype)
        self._count = int(ends[-1])

    def read(self, items: Tensor, padded_to: int) -> Tensor:
        """Padded states [n, padded_to, d] of `items` [n], all of which are held."""
        assert self._rows is not None, "only what is held is read"
        tokens = torch.arange(padded_to)
        rows = self._start[items][:, None] + tokens
        rows = rows.masked_fill(tokens >= self._lengths[items][:, None], 0)
        return self._rows[rows.to(self._place, non_blocking=True)]

    def _room_for(self, count: int, width: int) -> Tensor:
        if self._rows is None or count > len(self._rows):
            room = min(self._most, max(count, int(GROWTH * count)))
            grown = torch.zeros(room, width, dtype=self._dtype, device=self._place)
            if self._rows is not None:
                grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        return self._rows
