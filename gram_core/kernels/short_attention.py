"""Attention over packed short texts: several whole texts share one tile, so no tile is mostly padding.

Consecutive texts are grouped so that each group fits one tile of `block` tokens. One program handles one
group and head: the scores of a whole tile fit on chip, so the forward saves nothing but its inputs, and the
backward recomputes the softmax and writes all three gradients in one pass, without atomics (deterministic).
Variable-length attention in 128-wide tiles per text would compute 128 columns for a text of 20 tokens.

T tokens packed, A heads, D head width (a power of two, 16 to 128), G groups.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

BLOCKS = (64, 128)
"""Tile sizes: no text may be longer than the tile."""


def short_attention(qkv: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int) -> Tensor:
    """Attention within each text: queries, keys and values qkv [T, 3, A, D] -> [T, A, D].

    groups: int32 [G + 1], the token at which each group of whole texts starts, at most `block` apart; they
    must cover all T tokens (rows outside any group are left unwritten). text_of: int32 [T], a number per
    token that is the same within a text and differs between neighbours.
    """
    if qkv.is_cuda:
        from gram_core.kernels import _short_attention_triton

        return _short_attention_triton.forward(qkv, groups, text_of, scale, block)
    out = qkv.new_zeros(qkv.shape[0], *qkv.shape[2:])
    for rows in _group_rows(groups):
        q, k, v = qkv[rows].unbind(1)
        out[rows] = torch.einsum("aij,jad->iad", _weights(q, k, text_of[rows], scale), v)
    return out


def short_attention_backward(
    dout: Tensor, qkv: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int, sums: Tensor
) -> Tensor:
    """The gradient of qkv [T, 3, A, D]; `sums` [G, 3 A D] get its sums over each group's tokens."""
    if qkv.is_cuda:
        from gram_core.kernels import _short_attention_triton

        return _short_attention_triton.backward(dout, qkv, groups, text_of, scale, block, sums)
    dqkv = qkv.new_zeros(qkv.shape)
    sums.zero_()
    for number, rows in enumerate(_group_rows(groups)):
        q, k, v = qkv[rows].unbind(1)
        p = _weights(q, k, text_of[rows], scale)
        dp = torch.einsum("iad,jad->aij", dout[rows], v)
        ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
        dqkv[rows, 0] = torch.einsum("aij,jad->iad", ds, k)
        dqkv[rows, 1] = torch.einsum("aij,iad->jad", ds, q)
        dqkv[rows, 2] = torch.einsum("aij,iad->jad", p, dout[rows])
        sums[number] = dqkv[rows].flatten(1).to(sums.dtype).sum(0)
    return dqkv


def _group_rows(groups: Tensor) -> list[slice]:
    bounds = groups.tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds) if stop > start]


def _weights(q: Tensor, k: Tensor, text_of: Tensor, scale: float) -> Tensor:
    scores = torch.einsum("iad,jad->aij", q, k) * scale
    return torch.softmax(scores.masked_fill(text_of[:, None] != text_of[None, :], -math.inf), dim=-1)
