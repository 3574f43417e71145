"""Encodings of the items touched since the encoder last moved, and how far each has moved since.

Rows grow with the items touched and not with the catalogue; finding them takes at most eight bytes for each item up to
the largest that was asked for. n items asked for, d width.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class EncodingBuffer:
    """Two rows of width d for each item met so far, in the order of their first appearance.

    encoded: what the encoder said; displacement: what gradients have moved it by. Their sum is the moved
    encoding, at the interval's end the pseudo-target.
    """

    def __init__(self, width: int, device: torch.device, dtype: torch.dtype):
        self._encoded = torch.zeros(1, width, device=device, dtype=dtype)
        self._displacement = torch.zeros_like(self._encoded)
        self._items: list[Tensor] = []
        self._held = 0
        self._row_of: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        """By item; -1 where there is none."""
        self._found: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self._held

    @property
    def items(self) -> Tensor:
        """Every item held, int64 [len], in row order."""
        return torch.cat(self._items) if self._items else torch.empty(0, dtype=torch.int64)

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self._encoded.device

    @property
    def capacity(self) -> int:
        """Rows allocated for items, at most twice the most ever held; one more is nobody's (see `place`)."""
        return len(self._encoded) - 1

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Encoded and displacement, [capacity + 1, d] each: what captured steps read and write. Others come in their
        place when the buffer grows."""
        return self._encoded, self._displacement

    def place(self, items: Tensor, fit: Callable[[int], int]) -> tuple[Tensor, Tensor, int]:
        """Where a captured step finds `items` [n], all held, that all processes ask for alike.

        Returns the rows to read here [m], filled up with the row that is nobody's; which of all processes' [W m] each
        item then is, [n]; and m, which `fit` makes of the rows needed.
        """
        rows = self.rows_of(items)
        room = fit(len(rows))
        return self.filled_up(rows, room), torch.arange(len(items)), room

    def filled_up(self, rows: Tensor, room: int) -> Tensor:
        """Row numbers [n], and behind them that of the row that is nobody's, whose parts are zeros, [room]."""
        filled = torch.full((room,), self.capacity, dtype=torch.int64)
        filled[: len(rows)] = rows
        return filled

    def missing(self, items: Tensor) -> Tensor:
        """Those of `items` [n] (distinct) that have no row yet, in their order."""
        return items[torch.from_numpy(self._rows(items) < 0)]

    def claim(self, items: Tensor) -> Tensor:
        """Those of the missing `items` [n] that are to be encoded and added here: all of them."""
        return items

    def most_tokens(self, items: Tensor) -> int:
        """Tokens of `items` [n] that the process encodes which has most of them; 0 where only one process encodes."""
        return 0

    def owned(self, items: Tensor) -> Tensor:
        """Those of `items` [n] whose rows are held here: all of them."""
        return items

    def add(self, items: Tensor, encodings: Tensor) -> None:
        """Rows for `items` [n] (distinct, none held yet) from encodings [n, d]."""
        start, stop = self._held, self._held + len(items)
        if stop > self.capacity:
            capacity = max(stop, 2 * self.capacity)
            self._encoded = _grown(self._encoded, capacity, start)
            self._displacement = _grown(self._displacement, capacity, start)
        self._encoded[start:stop] = encodings
        self._displacement[start:stop] = 0
        self._rows(items)  # makes room for them
        self._row_of[items.numpy()] = np.arange(start, stop)
        self._items.append(items)
        self._held = stop

    def rows_of(self, items: Tensor) -> Tensor:
        """Row numbers [n] of `items` [n], all of which are held; on the host."""
        return torch.from_numpy(self._rows(items).astype(np.int64))

    def _rows(self, items: Tensor) -> NDArray[np.int32]:
        """Row numbers [n] of `items` [n], -1 for those without."""
        known, most = len(self._row_of), int(items.max()) if len(items) else -1
        if most >= known:
            self._row_of = np.pad(self._row_of, (0, max(most + 1, 2 * known) - known), constant_values=-1)
        return self._row_of[items.numpy()]

    def read(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded [n, d] and displacement [n, d] of `items` [n], copies."""
        rows = self._device_rows(items)
        return self._encoded[rows], self._displacement[rows]

    def moved(self, items: Tensor) -> Tensor:
        """Moved encodings [n, d] of `items` [n], a copy."""
        encoded, displacement = self.read(items)
        return encoded + displacement

    def move(self, items: Tensor, gradient: Tensor, rate: float) -> None:
        """Moves `items` [n] (distinct, so that no two writes meet) against their gradient [n, d], of the rows' dtype,
        at this rate."""
        self._displacement.index_add_(0, self._device_rows(items), gradient, alpha=-rate)

    def clear(self) -> None:
        """Forgets every item; the memory stays for the next interval."""
        self._found = None
        for items in self._items:
            self._row_of[items.numpy()] = -1
        self._items, self._held = [], 0

    def _device_rows(self, items: Tensor) -> Tensor:
        """Of the very tensor that was asked for last they are at hand: a step reads its items and then moves them."""
        if self._found is None or self._found[0] is not items:
            self._found = items, self.rows_of(items).to(self.device, non_blocking=True)
        return self._found[1]


def _grown(rows: Tensor, capacity: int, held: int) -> Tensor:
    grown = rows.new_empty(capacity + 1, rows.shape[1])
    grown[:held] = rows[:held]
    grown[-1] = 0
    return grown
