"""Attention within packed texts, through tiles that hold whole texts or, for longer ones, tiles that walk over them.

T tokens packed, A heads, D head width, G groups or tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gram_core.kernels import long_attention, short_attention
from gram_core.packing import PackedTexts


def tile_for(text_length: int, dtype: torch.dtype) -> int | None:
    """The tile that holds texts of up to `text_length` tokens whole; None where none does.

    In float32 the larger tile would not fit a multiprocessor's registers.
    """
    blocks = short_attention.BLOCKS if dtype.itemsize == 2 else short_attention.BLOCKS[:1]
    return next((block for block in blocks if block >= text_length), None)


def sum_rows(packed: PackedTexts, block: int | None) -> int:
    """G, as the backward sums: groups of whole texts, or tiles that walk."""
    return len(packed.groups) // 2 if block is None else len(packed.groups) - 1


def attend(qkv: Tensor, packed: PackedTexts, block: int | None) -> tuple[Tensor, Tensor | None]:
    """Queries, keys and values qkv [T, 3, A, D] -> [T, A, D], and what the backward needs beside it.

    block: the tile that the texts were packed for.
    """
    scale = qkv.shape[3] ** -0.5
    if block is None:
        return long_attention.long_attention(qkv, packed.groups, packed.text_of, scale)
    return short_attention.short_attention(qkv, packed.groups, packed.text_of, scale, block), None


def attend_backward(
    dout: Tensor, out: Tensor, logs: Tensor | None, qkv: Tensor, packed: PackedTexts, block: int | None, sums: Tensor
) -> Tensor:
    """The gradient of qkv [T, 3, A, D]; `sums` [G, 3 A D] get its sums over each group's or tile's tokens."""
    scale = qkv.shape[3] ** -0.5
    if block is None:
        assert logs is not None, "kept by `attend`"
        return long_attention.long_attention_backward(dout, out, logs, qkv, packed.groups, packed.text_of, scale, sums)
    return short_attention.short_attention_backward(dout, qkv, packed.groups, packed.text_of, scale, block, sums)
