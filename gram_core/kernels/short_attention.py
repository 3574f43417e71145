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
from typing import Any

import torch
from torch import Tensor

BLOCKS = (64, 128)
"""Tile sizes: no text may be longer than the tile."""


@torch.library.custom_op("gram_core::short_attention", mutates_args=(), device_types="cuda")
def short_attention(
    q: Tensor, k: Tensor, v: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int
) -> Tensor:
    """Attention within each text: q, k, v [T, A, D] -> [T, A, D].

    groups: int32 [G + 1], the token at which each group of whole texts starts, at most `block` apart; they
    must cover all T tokens (rows outside any group are left unwritten). text_of: int32 [T], a number per
    token that is the same within a text and differs between neighbours.
    """
    from gram_core.kernels import _short_attention_triton

    return _short_attention_triton.forward(q, k, v, groups, text_of, scale, block)


@short_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@torch.library.custom_op("gram_core::short_attention_backward", mutates_args=(), device_types="cuda")
def _short_attention_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    from gram_core.kernels import _short_attention_triton

    return _short_attention_triton.backward(dout, q, k, v, groups, text_of, scale, block)


@_short_attention_backward.register_fake
def _(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    return dq, dk, dv


@short_attention.register_kernel("cpu")
def _(q: Tensor, k: Tensor, v: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int) -> Tensor:
    out = torch.zeros(q.shape, dtype=q.dtype)
    for rows in _group_rows(groups):
        out[rows] = torch.einsum("aij,jad->iad", _weights(q[rows], k[rows], text_of[rows], scale), v[rows])
    return out


@_short_attention_backward.register_kernel("cpu")
def _(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.zeros(q.shape, dtype=q.dtype) for _ in range(3))
    for rows in _group_rows(groups):
        p = _weights(q[rows], k[rows], text_of[rows], scale)
        dp = torch.einsum("iad,jad->aij", dout[rows], v[rows])
        ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
        dq[rows] = torch.einsum("aij,jad->iad", ds, k[rows])
        dk[rows] = torch.einsum("aij,iad->jad", ds, q[rows])
        dv[rows] = torch.einsum("aij,iad->jad", p, dout[rows])
    return dq, dk, dv


def _group_rows(groups: Tensor) -> list[slice]:
    bounds = groups.tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds) if stop > start]


def _weights(q: Tensor, k: Tensor, text_of: Tensor, scale: float) -> Tensor:
    scores = torch.einsum("iad,jad->aij", q, k) * scale
    return torch.softmax(scores.masked_fill(text_of[:, None] != text_of[None, :], -math.inf), dim=-1)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *saved, ctx.scale, ctx.block = inputs
    ctx.save_for_backward(*saved)


def _backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv = _short_attention_backward(dout, *ctx.saved_tensors, ctx.scale, ctx.block)
    return dq, dk, dv, None, None, None, None


short_attention.register_autograd(_backward, setup_context=_setup)
