"""From token states to one encoding per text: mean, first token, or additive attention.

n texts, L tokens each (padded), d width.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from gram_core.attention import AdditiveAttention

Pooling = Literal["mean", "cls", "attention"]


class MeanPooling(nn.Module):
    """The mean over real tokens."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [n, L, d], mask [n, L] -> [n, d]."""
        weights = mask.to(states.dtype)
        return (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


class ClsPooling(nn.Module):
    """The state of the first token."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [n, L, d], mask [n, L] -> [n, d]."""
        return states[:, 0]


def pooling_module(pooling: Pooling, width: int) -> nn.Module:
    """The module of that name. Raises ValueError for a name that is none."""
    if pooling == "mean":
        return MeanPooling()
    if pooling == "cls":
        return ClsPooling()
    if pooling == "attention":
        return AdditiveAttention(width)
    raise ValueError(f"pooling {pooling!r} is none of {', '.join(get_args(Pooling))}")
