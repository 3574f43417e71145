"""Attention within packed texts: on a GPU through tiles that hold whole texts or, for longer ones, walk over them.

On a CPU texts are padded for it, lot by lot. T tokens packed, A heads, D head width, G groups or tiles.
"""

import torch
from torch import Tensor

from gram_core.kernels.padded_attention import padded_attention, padded_attention_backward
from gram_core.packing import PackedTexts

BLOCKS = (64, 128)
"""Tiles that hold whole texts."""


def tile_for(text_length: int, dtype: torch.dtype) -> int | None:
    """The tile that holds texts of up to `text_length` tokens whole; None where none does.

    In float32 the larger tile would not fit a multiprocessor's registers.
    """
    blocks = BLOCKS if dtype.itemsize == 2 else BLOCKS[:1]
    return next((block for block in blocks if block >= text_length), None)


def sum_rows(packed: PackedTexts, block: int | None) -> int:
    """G, as the backward sums: groups of whole texts, or tiles that walk; one on a CPU."""
    if not packed.groups.is_cuda:
        return 1
    return len(packed.groups) // 2 if block is None else len(packed.groups) - 1


def attend(qkv: Tensor, packed: PackedTexts, block: int | None) -> tuple[Tensor, Tensor | None]:
    """Queries, keys and values qkv [T, 3, A, D] -> [T, A, D], and what the backward needs beside it.

    block: the tile that the texts were packed for.
    """
    scale = qkv.shape[3] ** -0.5
    if not qkv.is_cuda:
        return padded_attention(qkv, packed.offsets, scale), None
    from gram_core.kernels import _long_attention_triton, _short_attention_triton

    if block is None:
        return _long_attention_triton.forward(qkv, packed.groups, packed.text_of, scale)
    return _short_attention_triton.forward(qkv, packed.groups, packed.text_of, scale, block), None


def attend_backward(
    dout: Tensor, out: Tensor, logs: Tensor | None, qkv: Tensor, packed: PackedTexts, block: int | None, sums: Tensor
) -> Tensor:
    """The gradient of qkv [T, 3, A, D]; `sums` [G, 3 A D] get its sums over each group's or tile's tokens."""
    scale = qkv.shape[3] ** -0.5
    if not qkv.is_cuda:
        return padded_attention_backward(dout, qkv, packed.offsets, scale, sums)
    from gram_core.kernels import _long_attention_triton, _short_attention_triton

    if block is None:
        assert logs is not None, "kept by `attend`"
        return _long_attention_triton.backward(dout, out, logs, qkv, packed.groups, packed.text_of, scale, sums)
    return _short_attention_triton.backward(dout, qkv, packed.groups, packed.text_of, scale, block, sums)
