"""What CF modules of response prediction share: a slot's place among its user's items, and their loss.

B users, S slots, d width.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gram_core.batch import Batch


def ranks(mask: Tensor) -> Tensor:
    """Each slot's place among its user's items, from 0, int64 [B, S]; -1 at padding, wherever that is."""
    return torch.where(mask, mask.cumsum(dim=1) - 1, -1)


def positions(rank: Tensor, dtype: torch.dtype, width: int) -> Tensor:
    """Sinusoids [..., width] of places [...] (Vaswani et al. 2017).

    Raises ValueError for an odd width.
    """
    if width % 2:
        raise ValueError(f"positions need an even width, not {width}")
    steps = torch.arange(0, width, 2, device=rank.device, dtype=dtype)
    angles = rank[..., None] * torch.exp(steps * (-math.log(10_000.0) / width))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def move_rows(rows: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Rows [..., d] in another order: at each place of `source` that row, any where it is negative.

    Rows and places are counted through all their dimensions but the last, `d`. target: in the shape of the rows, at
    which place each is read, negative for none. A row is read once, so that the backward is a reading as well and not
    a sum. What stands where `source` is negative must have no gradient.
    """
    return _Moved.apply(rows, source, target)


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, source: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(target)
        return _read(rows, source)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (target,) = ctx.saved_tensors
        return _read(gradient, target) * (target >= 0)[..., None], None, None


def _read(rows: Tensor, places: Tensor) -> Tensor:
    """Rows [..., d] at `places`, the first where a place is negative; zeros where there are none to read."""
    flat = rows.flatten(0, -2)
    return F.embedding(places.clamp(min=0), flat) if len(flat) else rows.new_zeros(*places.shape, rows.shape[-1])


def mean_over_slots(logits: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy of logits [B, S] against the responses, mean over the slots that hold an item."""
    dtype = torch.promote_types(logits.dtype, batch.targets.dtype)
    losses = F.binary_cross_entropy_with_logits(logits.to(dtype), batch.targets.to(dtype), reduction="none")
    return (losses * batch.mask).sum() / batch.mask.sum().clamp(min=1)
