"""From ids of any shape to the distinct items among them, and from their encodings back to ids.

U distinct items, d width; each tensor of ids has a shape of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gram_core.small_numbers import distinct

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class ItemSlots:
    """The distinct items of several tensors of ids, and which of them each id is.

    items: int64 [U], sorted, on the device of the first ids.
    rows: for each tensor of ids, int64 of its shape: which of `items` it is, -1 for none.
    padded: whether an id is -1.
    """

    items: Tensor
    rows: tuple[Tensor, ...]
    padded: bool

    @classmethod
    def of(cls, ids: Sequence[Tensor]) -> ItemSlots:
        """Raises TypeError for what are no integers, ValueError for ids below -1."""
        for part in ids:
            if not isinstance(part, Tensor) or part.dtype not in _INTEGERS:
                kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
                raise TypeError(f"item ids must be a tensor of integers, not {kind}")
        if not ids:
            raise TypeError("encode needs one tensor of item ids at least")
        flat = torch.cat([part.detach().reshape(-1).to(ids[0].device, torch.int64) for part in ids])
        shifted, inverse = _distinct(flat + 1)  # 0 is none
        least = int(shifted[0]) if len(shifted) else 1
        if least < 0:
            raise ValueError(f"an item id is {least - 1}; ids count from 0, and -1 stands for none")
        padded = least == 0
        parts = (inverse - 1 if padded else inverse).split([part.numel() for part in ids])
        rows = tuple(part.view(given.shape) for part, given in zip(parts, ids, strict=True))
        return cls((shifted[1:] if padded else shifted) - 1, rows, padded)

    def spread(self, encodings: Tensor) -> tuple[Tensor, ...]:
        """Encodings of the items [U, d] -> [*shape, d] for each tensor of ids, zeros where an id is -1; differentiable.

        Through `F.embedding`, whose backward sums over repeats without atomics, so that it is deterministic.
        """
        return tuple(self._gathered(encodings, _sent(rows, encodings.device)) for rows in self.rows)

    def _gathered(self, encodings: Tensor, rows: Tensor) -> Tensor:
        if not len(encodings):  # the sum keeps the encoder in the graph, which processes that wait for each other need
            return encodings.new_zeros(*rows.shape, encodings.shape[-1]) + encodings.sum()
        if not self.padded:
            return F.embedding(rows, encodings)
        return F.embedding(rows.clamp(min=0), encodings).masked_fill((rows < 0)[..., None], 0)


def _sent(rows: Tensor, device: torch.device) -> Tensor:
    """Rows on `device`; the host goes on meanwhile, where else it would wait for all that the device has to do."""
    if device.type == "cuda" and not rows.is_cuda:
        return rows.pin_memory().to(device, non_blocking=True)
    return rows.to(device)


def _distinct(numbers: Tensor) -> tuple[Tensor, Tensor]:
    return distinct(numbers) if numbers.device.type == "cpu" else torch.unique(numbers, return_inverse=True)
