"""Rotary positions: what attention does to queries and keys before it compares them, and to their gradients after.

The two halves of a head's columns are the coordinates of D / 2 points, each of which a token turns by an angle. Written
out here for a CPU, and as what the kernels are compared with. T tokens packed, A heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def refuses(cos: Tensor, sin: Tensor, shape: torch.Size) -> str | None:
    """Why these tables can't turn heads [T, A, D] of this shape; None where they can."""
    tokens, _, width = shape
    if width % 2:
        return f"heads of {width} have no two halves"
    if not cos.shape == sin.shape == (tokens, width // 2):
        return f"tables {tuple(cos.shape)} and {tuple(sin.shape)} do not turn heads {tuple(shape)}"
    return "what turns heads gets no gradient" if cos.requires_grad or sin.requires_grad else None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads x [T, A, D] turned by cos, sin [T, D / 2], in float32 at least and rounded once, to x's type."""
    near, far, cos, sin = _wide(x, cos, sin)
    return torch.cat([near * cos - far * sin, far * cos + near * sin], -1).to(x.dtype)


def rotated_back(gradient: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient of x, given that of `rotated(x, cos, sin)`."""
    near, far, cos, sin = _wide(gradient, cos, sin)
    return torch.cat([near * cos + far * sin, far * cos - near * sin], -1).to(gradient.dtype)


def _wide(x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """x's near and far half [T, A, D / 2], cos and sin [T, 1, D / 2]."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, cos.dtype), torch.float32)
    return *x.to(dtype).chunk(2, -1), cos[:, None].to(dtype), sin[:, None].to(dtype)
