"""From token states to one encoding per text: mean, maximum, first or last token, or additive attention.

n texts, L tokens each (padded at the end), d width.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gram_core.attention import AdditiveAttention

Pooling = Literal["mean", "cls", "last", "max", "attention"]


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


class LastPooling(nn.Module):
    """The state of the last real token: of a causal model, the only one that has seen the whole text."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [n, L, d], mask [n, L] -> [n, d]."""
        last = (mask.sum(1) - 1).clamp(min=0)
        return states[torch.arange(len(states), device=states.device), last]


class MaxPooling(nn.Module):
    """The largest value of each component over real tokens."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [n, L, d], mask [n, L] -> [n, d]."""
        return states.masked_fill(~mask.bool()[..., None], torch.finfo(states.dtype).min).max(1).values


def pooling_module(pooling: Pooling, width: int) -> nn.Module:
    """The module of that name. Raises ValueError for a name that is none."""
    plain: dict[str, type[nn.Module]] = {
        "mean": MeanPooling,
        "cls": ClsPooling,
        "last": LastPooling,
        "max": MaxPooling,
    }
    if pooling in plain:
        return plain[pooling]()
    if pooling == "attention":
        return AdditiveAttention(width)
    raise ValueError(f"pooling {pooling!r} is none of {', '.join(get_args(Pooling))}")
