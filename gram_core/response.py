"""What CF modules of response prediction share: a slot's place among its user's items, and their loss.

B users, S slots, d width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gram_core.batch import Batch


def ranks(mask: Tensor) -> Tensor:
    """Each slot's place among its user's items, from 0, int64 [B, S]; -1 at padding, wherever that is."""
    return torch.where(mask, mask.cumsum(dim=1) - 1, -1)


def positions(rank: Tensor, like: Tensor) -> Tensor:
    """Sinusoids [B, S, d] of places [B, S] (Vaswani et al. 2017), in width and dtype of `like` [B, S, d].

    Raises ValueError for an odd width.
    """
    width = like.shape[-1]
    if width % 2:
        raise ValueError(f"positions need an even width, not {width}")
    steps = torch.arange(0, width, 2, device=rank.device, dtype=like.dtype)
    angles = rank[..., None] * torch.exp(steps * (-math.log(10_000.0) / width))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def mean_over_slots(logits: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy of logits [B, S] against the responses, mean over the slots that hold an item."""
    dtype = torch.promote_types(logits.dtype, batch.targets.dtype)
    losses = F.binary_cross_entropy_with_logits(logits.to(dtype), batch.targets.to(dtype), reduction="none")
    return (losses * batch.mask).sum() / batch.mask.sum().clamp(min=1)
