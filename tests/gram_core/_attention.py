"""Attention within packed texts as its definition has it, to compare with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gram_core.kernels.prepared_heads import Norm, Preparation
from gram_core.kernels.text_attention import Rules


def tables(tokens: int, width: int) -> tuple[Tensor, Tensor]:
    """cos and sin [T, D / 2] of angles at random."""
    angles = 7 * torch.randn(tokens, width // 2, dtype=torch.float64)
    return angles.cos(), angles.sin()


def preparation(kind: str | None, tokens: int, width: int) -> Preparation | None:
    """Of a kind of `PREPARATIONS`, at random, in float64."""
    if kind is None:
        return None
    norms = tuple(Norm(1 + 0.5 * torch.randn(width, dtype=torch.float64), eps) for eps in (1e-6, 0.1))
    return Preparation(*tables(tokens, width), norms if kind == "normed" else None)


PREPARATIONS = (None, "rotated", "normed")


def in_type(
    how: Preparation | None, dtype: torch.dtype, device: str | torch.device = "cpu", tables: torch.dtype | None = None
) -> Preparation | None:
    """The same in another type or place, where weights are leaves. tables: their type, where it is another."""
    if how is None:
        return None
    norms = [Norm(norm.weight.detach().to(device, dtype).requires_grad_(), norm.eps) for norm in how.norms or ()]
    return Preparation(how.cos.to(device, tables or dtype), how.sin.to(device, tables or dtype), tuple(norms) or None)


def weights(how: Preparation | None) -> tuple[Tensor, ...]:
    """Of the norms."""
    return tuple(norm.weight for norm in how.norms) if how is not None and how.norms else ()


def prepared(x: Tensor, how: Preparation, norm: Norm | None) -> Tensor:
    """Heads [T, A, D] divided by their size, then turned as points of the complex plane."""
    if norm is not None:
        x = torch.nn.functional.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)
    near, far = x.chunk(2, -1)
    cos, sin = (table[:, None].to(x.dtype) for table in (how.cos, how.sin))
    return torch.cat([near * cos - far * sin, far * cos + near * sin], -1)


def dense(leaves: tuple[Tensor, ...], text_of: Tensor, rules: Rules, how: Preparation | None = None) -> Tensor:
    """Attention by all scores [A, T, T] of one sequence; a leaf more than queries, keys and values is a bias.

    In the dtype of its leaves, as eager code is.
    """
    q, k, v, *bias = leaves
    if how is not None:
        q, k = (prepared(part, how, norm) for part, norm in zip((q, k), how.norms or (None, None), strict=True))
    grouped = q.shape[1] // k.shape[1]
    place = torch.arange(len(q))
    distance = place[None, :] - place[:, None]
    scores = torch.einsum("iad,jad->aij", q, k.repeat_interleave(grouped, 1)) * rules.scale
    if bias:
        reach = bias[0].shape[1] // 2
        scores = scores + bias[0][:, (distance + reach).clamp(0, 2 * reach)]
    hidden = text_of[:, None] != text_of[None, :]
    if rules.causal:
        hidden |= distance > 0
    if rules.window is not None:
        hidden |= distance.abs() > rules.window
    weights = torch.softmax(scores.masked_fill(hidden, -math.inf), -1)
    return torch.einsum("aij,jad->iad", weights, v.repeat_interleave(grouped, 1))
