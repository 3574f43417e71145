"""The Triton side of `embedding`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from gram_core.kernels._layer_norm_triton import _norm_backward
from gram_core.packing import PackedTexts

if TYPE_CHECKING:
    from gram_core.kernels.embedding import EmbeddingWeights

SPLITS = 8
"""Programs that share the texts of one position."""


@triton.jit
def _summed(tokens, positions, words, position_table, types, row, held, column, first_position, width,
            typed: tl.constexpr):  # fmt: skip
    some = held[:, None] & (column < width)[None, :]
    word = tl.load(tokens + row, mask=held, other=0).to(tl.int64)
    place = tl.load(positions + row, mask=held, other=0).to(tl.int64) + first_position
    total = tl.load(words + word[:, None] * width + column[None, :], mask=some, other=0.0).to(tl.float32)
    total += tl.load(position_table + place[:, None] * width + column[None, :], mask=some, other=0.0).to(tl.float32)
    if typed:
        total += tl.load(types + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    return total, word, some


@triton.jit(do_not_specialize=["rows"])
def _embed_kernel(
    tokens, positions, words, position_table, types, weight, bias, out, statistics, rows, width, first_position, eps,
    typed: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    held = row < rows
    column = tl.arange(0, block)
    total, _, some = _summed(
        tokens, positions, words, position_table, types, row, held, column, first_position, width, typed
    )
    mean = tl.sum(total, 1) / width
    centred = tl.where(some, total - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / width + eps)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    b = tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    place = row[:, None].to(tl.int64) * width + column[None, :]
    tl.store(out + place, (centred * inverse[:, None] * w + b).to(out.dtype.element_ty), mask=some)
    tl.store(statistics + row, mean, mask=held)
    tl.store(statistics + rows + row, inverse, mask=held)


@triton.jit(do_not_specialize=["rows"])
def _embed_backward_kernel(
    gradient, also, tokens, positions, words, position_table, types, weight, statistics, moved_rows, partials,
    of_words, rows, width, first_position, ignored, partial_stride,
    two: tl.constexpr, typed: tl.constexpr, scattered: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, block)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    of_weight = tl.zeros((tile, block), dtype=tl.float32)
    of_bias = tl.zeros((tile, block), dtype=tl.float32)
    for first in range(tl.program_id(0) * tile, rows, tl.num_programs(0) * tile):
        row = first + tl.arange(0, tile)
        held = row < rows
        total, word, some = _summed(
            tokens, positions, words, position_table, types, row, held, column, first_position, width, typed
        )
        place = row[:, None].to(tl.int64) * width + column[None, :]
        dy = tl.load(gradient + place, mask=some, other=0.0).to(tl.float32)
        if two:
            dy += tl.load(also + place, mask=some, other=0.0).to(tl.float32)
        moved, normed = _norm_backward(dy, total, statistics, w, row, rows, some, width)
        tl.store(moved_rows + place, moved, mask=some)
        if scattered:
            counted = some & (word != ignored)[:, None]
            tl.atomic_add(of_words + word[:, None] * width + column[None, :], moved, mask=counted, sem="relaxed")
        of_weight += dy * normed
        of_bias += dy
    place = partials + tl.program_id(0).to(tl.int64) * partial_stride + column
    tl.store(place, tl.sum(of_weight, 0), mask=column < width)
    tl.store(place + width, tl.sum(of_bias, 0), mask=column < width)


@triton.jit(do_not_specialize=["texts"])
def _position_sums_kernel(
    rows, offsets, partials, texts, width, places, splits: tl.constexpr, block: tl.constexpr, tile: tl.constexpr
):
    position = tl.program_id(0)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    total = tl.zeros((block,), dtype=tl.float32)
    for first in range(tl.program_id(2) * tile, texts, splits * tile):
        text = first + tl.arange(0, tile)
        token = tl.load(offsets + text, mask=text < texts, other=0) + position
        held = token < tl.load(offsets + text + 1, mask=text < texts, other=0)
        place = token[:, None].to(tl.int64) * width + column[None, :]
        total += tl.sum(tl.load(rows + place, mask=held[:, None] & inside[None, :], other=0.0), 0)
    place = (tl.program_id(2).to(tl.int64) * places + position) * width + column
    tl.store(partials + place, total, mask=inside)


def embed(packed: PackedTexts, weights: EmbeddingWeights, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """See `embedding.embed`."""
    rows, width = len(packed.tokens), weights.words.shape[1]
    out = torch.empty(rows, width, dtype=dtype, device=packed.tokens.device)
    statistics = torch.empty(2, rows, dtype=torch.float32, device=packed.tokens.device)
    _embed_kernel[(triton.cdiv(rows, 4),)](
        packed.tokens, packed.positions, weights.words, weights.positions, _types(weights), weights.norm_weight,
        weights.norm_bias, out, statistics, rows, width, weights.first_position, weights.eps,
        typed=weights.types is not None, block=triton.next_power_of_2(width), tile=4, num_warps=8,
    )  # fmt: skip
    return out, statistics


def embed_backward(
    gradient: Tensor,
    also: Tensor | None,
    packed: PackedTexts,
    statistics: Tensor,
    weights: EmbeddingWeights,
    partials: Tensor,
    of_words: Tensor | None,
) -> Tensor:
    """The gradient of each token's sum, float32 [T, d]; added to the rows of `of_words` where it is given."""
    rows, width = gradient.shape
    moved = torch.empty(rows, width, dtype=torch.float32, device=gradient.device)
    _embed_backward_kernel[(len(partials),)](
        gradient, gradient if also is None else also, packed.tokens, packed.positions, weights.words,
        weights.positions, _types(weights),
        weights.norm_weight, statistics, moved, partials, moved if of_words is None else of_words,
        rows, width, weights.first_position, weights.ignored, partials.stride(0),
        two=also is not None, typed=weights.types is not None, scattered=of_words is not None,
        block=triton.next_power_of_2(width), tile=1, num_warps=4,
    )  # fmt: skip
    return moved


def position_sums(rows: Tensor, offsets: Tensor, out: Tensor) -> None:
    """See `embedding.position_sums`."""
    places, width = out.shape
    partials = torch.empty(SPLITS, places, width, dtype=torch.float32, device=rows.device)
    _position_sums_kernel[(places, triton.cdiv(width, 256), SPLITS)](
        rows, offsets, partials, len(offsets) - 1, width, places, splits=SPLITS, block=256, tile=8, num_warps=4
    )
    torch.sum(partials, 0, out=out)


def _types(weights: EmbeddingWeights) -> Tensor:
    return weights.words if weights.types is None else weights.types
