"""Attention over packed texts of any length: tiles of queries walk over the keys of the texts that they touch.

What a tile walks over is found on the host: the span from the first token of its first text to the last of its last.
The forward keeps each query's log-sum of weights, from which the backward recomputes them, once per tile of queries and
once per tile of keys, without atomics (deterministic). T tokens packed, A heads, D head width, G tiles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gram_core.packing import WALKING


def long_attention(qkv: Tensor, spans: Tensor, text_of: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention within each text: queries, keys and values qkv [T, 3, A, D] -> [T, A, D], and log-sums [A, T].

    spans: int32 [2 G], for each tile of WALKING tokens the first token of its texts and the one behind their last;
    text_of: int32 [T], a number per token that is the same within a text and differs from those of others.
    """
    if qkv.is_cuda:
        from gram_core.kernels import _long_attention_triton

        return _long_attention_triton.forward(qkv, spans, text_of, scale)
    q, k, v = qkv.unbind(1)
    scores = _scores(q, k, text_of, scale)
    return torch.einsum("aij,jad->iad", torch.softmax(scores, -1), v), torch.logsumexp(scores, -1)


def long_attention_backward(
    dout: Tensor, out: Tensor, logs: Tensor, qkv: Tensor, spans: Tensor, text_of: Tensor, scale: float, sums: Tensor
) -> Tensor:
    """The gradient of qkv [T, 3, A, D]; `sums` [G, 3 A D] get its sums over each tile's tokens."""
    if qkv.is_cuda:
        from gram_core.kernels import _long_attention_triton

        return _long_attention_triton.backward(dout, out, logs, qkv, spans, text_of, scale, sums)
    q, k, v = qkv.unbind(1)
    p = torch.exp(_scores(q, k, text_of, scale) - logs[..., None])
    dp = torch.einsum("iad,jad->aij", dout, v)
    ds = p * (dp - (dout * out).sum(-1).t()[..., None]) * scale
    parts = (
        torch.einsum("aij,jad->iad", ds, k), torch.einsum("aij,iad->jad", ds, q), torch.einsum("aij,iad->jad", p, dout)
    )  # fmt: skip
    dqkv = torch.stack(parts, 1)
    sums.zero_()
    for number, rows in enumerate(dqkv.flatten(1).split(WALKING)):
        sums[number] = rows.to(sums.dtype).sum(0)
    return dqkv


def _scores(q: Tensor, k: Tensor, text_of: Tensor, scale: float) -> Tensor:
    scores = torch.einsum("iad,jad->aij", q, k) * scale
    return scores.masked_fill(text_of[:, None] != text_of[None, :], -math.inf)
