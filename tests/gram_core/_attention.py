"""Attention within packed texts as its definition has it, to compare with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gram_core.kernels.text_attention import Rules


def dense(leaves: tuple[Tensor, ...], text_of: Tensor, rules: Rules) -> Tensor:
    """Attention by all scores [A, T, T] of one sequence; a leaf more than queries, keys and values is a bias."""
    q, k, v, *bias = leaves
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
