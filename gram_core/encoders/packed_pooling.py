"""One encoding of each packed text's hidden states: their mean, the first or the last token's.

T tokens packed, n texts, d width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gram_core.encoders.pooling import ClsPooling, LastPooling, MeanPooling
from gram_core.kernels.segments import segment_mean, spread_means
from gram_core.packing import PackedTexts

POOLINGS = (MeanPooling, ClsPooling, LastPooling)
"""Poolings, exactly these, that need no padded rows."""


def pooled(pooling: nn.Module, states: Tensor, packed: PackedTexts, dtype: torch.dtype) -> Tensor:
    """Encodings [n, d] in `dtype` of hidden states [T, d], differentiable."""
    return _Pooled.apply(pooling, states, packed, dtype)


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pooling: nn.Module, states: Tensor, packed: PackedTexts, dtype: torch.dtype) -> Tensor:
        ctx.pooling, ctx.packed, ctx.dtype = pooling, packed, states.dtype
        return pool(pooling, states, packed).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, None]:
        return None, pool_backward(ctx.pooling, gradient, ctx.packed, ctx.dtype), None, None


def pool(pooling: nn.Module, states: Tensor, packed: PackedTexts) -> Tensor:
    """[T, d] -> [n, d]; a mean is wider than its narrow states."""
    return segment_mean(states, packed.offsets) if isinstance(pooling, MeanPooling) else states[_row(pooling, packed)]


def pool_backward(pooling: nn.Module, gradient: Tensor, packed: PackedTexts, dtype: torch.dtype) -> Tensor:
    """The gradient of the hidden states [T, d] in `dtype`, from that of the encodings [n, d]."""
    if isinstance(pooling, MeanPooling):
        return spread_means(gradient, packed.offsets, packed.text_of, dtype)
    rows = gradient.new_zeros(len(packed.tokens), gradient.shape[1], dtype=dtype)
    starts, stops = packed.offsets[:-1], packed.offsets[1:]
    real = (starts < stops)[:, None]  # a text of no tokens reads a row that is another's, or nobody's
    return rows.index_add_(0, _row(pooling, packed), torch.where(real, gradient, 0.0).to(dtype))


def _row(pooling: nn.Module, packed: PackedTexts) -> Tensor:
    """The row of each text's first or last token, int64 [n]; of a text of no tokens, any row."""
    rows = packed.offsets[1:] - 1 if isinstance(pooling, LastPooling) else packed.offsets[:-1]
    return rows.clamp(0, len(packed.tokens) - 1).long()
