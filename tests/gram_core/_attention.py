"""Attention within packed texts as its definition has it, to compare with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gram_core.kernels.text_attention import Rotation, Rules


def tables(tokens: int, width: int) -> tuple[Tensor, Tensor]:
    """cos and sin [T, D / 2] of angles at random."""
    angles = 7 * torch.randn(tokens, width // 2, dtype=torch.float64)
    return angles.cos(), angles.sin()


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads [T, A, D] as points of the complex plane, turned."""
    near, far = x.chunk(2, -1)
    points = torch.complex(near, far) * torch.complex(cos.double(), sin.double())[:, None]
    return torch.cat([points.real, points.imag], -1)


def dense(leaves: tuple[Tensor, ...], text_of: Tensor, rules: Rules, rotation: Rotation = None) -> Tensor:
    """Attention by all scores [A, T, T] of one sequence; a leaf more than queries, keys and values is a bias."""
    q, k, v, *bias = leaves
    if rotation is not None:
        q, k = turned(q, *rotation), turned(k, *rotation)
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
