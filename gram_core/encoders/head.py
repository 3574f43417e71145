"""What some encoders do to a pooled text before it is an encoding: project it, scale it to unit length.

n texts, d width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
