"""From token states to one encoding per text: mean, maximum, first or last token, or additive attention.

n texts, L tokens each (padded at the end), d width.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
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
    if isinstance(pooling, str) and pooling in plain:
        return plain[pooling]()
    if pooling == "attention":
        return AdditiveAttention(width)
    raise ValueError(f"pooling {pooling!r} is none of {', '.join(get_args(Pooling))}")


class Normalize(nn.Module):
    """Encodings of unit length."""

    def forward(self, encodings: Tensor) -> Tensor:
        """[n, d] -> [n, d]; zeros stay zeros."""
        return F.normalize(encodings, dim=-1)


class Dense(nn.Module):
    """A linear map and an activation, as sentence-transformers' module of that name; residual: the input is added,
    through a map of its own where widths differ."""

    def __init__(self, width: int, out: int, *, bias: bool = True, activation: nn.Module, residual: bool = False):
        super().__init__()
        self.linear = nn.Linear(width, out, bias=bias)
        self.activation = activation
        self.adds_input = residual
        if residual and width != out:
            self.residual = nn.Linear(width, out, bias=False)

    def forward(self, encodings: Tensor) -> Tensor:
        """[n, width] -> [n, out]."""
        found = self.activation(self.linear(encodings))
        if not self.adds_input:
            return found
        return found + (self.residual(encodings) if hasattr(self, "residual") else encodings)


def head_width(head: nn.Sequential, width: int) -> int:
    """The width that `head` makes of `width`."""
    for part in head:
        if isinstance(part, Dense):
            if part.linear.in_features != width:
                raise ValueError(f"a dense layer takes encodings of width {part.linear.in_features}, and gets {width}")
            width = part.linear.out_features
    return width
