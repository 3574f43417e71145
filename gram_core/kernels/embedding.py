"""Word, position and type embeddings, summed and normed in one pass; their tables' gradients.

T tokens packed, n texts, d width, P partial sums.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gram_core.kernels.column_sums import sum_dtype
from gram_core.kernels.layer_norm import norm_backward
from gram_core.packing import PackedTexts


@dataclass(frozen=True, eq=False)
class EmbeddingWeights:
    """Tables and norm of a BERT-like model.

    words [V, d], positions [M, d], types [k, d] of which only the first row is read, or None;
    first_position: the row of a text's first token; ignored: the token whose row gets no gradient, or -1.
    """

    words: Tensor
    positions: Tensor
    types: Tensor | None
    norm_weight: Tensor
    norm_bias: Tensor
    eps: float
    first_position: int
    ignored: int

    def tables(self) -> tuple[Tensor, ...]:
        """The tables that there are."""
        return (self.words, self.positions) if self.types is None else (self.words, self.positions, self.types)


def embed(packed: PackedTexts, weights: EmbeddingWeights, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Normed embeddings [T, d] in `dtype`, and statistics [2, T]: mean and inverse deviation of each token's sum."""
    if packed.tokens.is_cuda:
        from gram_core.kernels import _embedding_triton

        return _embedding_triton.embed(packed, weights, dtype)
    rows, mean, inverse = torch.native_layer_norm(
        _summed(packed, weights), weights.norm_weight.shape, weights.norm_weight, weights.norm_bias, weights.eps
    )
    return rows.to(dtype), torch.stack([mean[:, 0], inverse[:, 0]])


def embed_backward(
    gradient: Tensor,
    also: Tensor | None,
    packed: PackedTexts,
    statistics: Tensor,
    weights: EmbeddingWeights,
    partials: Tensor,
    tables: tuple[Tensor, ...],
    text_length: int,
) -> None:
    """Adds the words' gradient to the first of `tables`, writes the others' whatever they held; partials [P, 2 d]:
    those of the norm.

    gradient [T, d], also [T, d]: those of the two readers of the normed embeddings, or of one.
    text_length: no text has more tokens. Rows of a token are added atomically on a GPU, in an order that differs from
    call to call, unless torch is asked to be deterministic.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    of_words, of_positions, *of_types = tables
    if gradient.is_cuda:
        from gram_core.kernels import _embedding_triton

        scattered = None if deterministic else of_words
        moved = _embedding_triton.embed_backward(gradient, also, packed, statistics, weights, partials, scattered)
    else:
        wide = gradient.to(sum_dtype(gradient))
        moved, *of_norm = norm_backward(
            wide if also is None else wide + also, _summed(packed, weights), statistics, weights.norm_weight
        )
        partials[0] = torch.cat(of_norm)
        counted = packed.tokens != weights.ignored
        of_words.index_add_(0, packed.tokens[counted], moved[counted])
    if deterministic and gradient.is_cuda:
        of_words += torch.ops.aten.embedding_dense_backward(
            moved, packed.tokens.long(), len(of_words), weights.ignored, False
        )
    of_positions.zero_()
    read = of_positions[weights.first_position : weights.first_position + text_length]
    position_sums(moved, packed.offsets, read)
    for table in of_types:
        table.zero_()
        torch.sum(read, 0, out=table[0])


def position_sums(rows: Tensor, offsets: Tensor, out: Tensor) -> None:
    """Sums of rows [T, d] over each position of the texts that start at `offsets` [n + 1] -> out [positions, d]."""
    if rows.is_cuda:
        from gram_core.kernels import _embedding_triton

        _embedding_triton.position_sums(rows, offsets, out)
        return
    lengths = offsets.diff()
    places = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1].long(), lengths)
    out.zero_().index_add_(0, places, rows[: len(places)])


def _summed(packed: PackedTexts, weights: EmbeddingWeights) -> Tensor:
    total = weights.words[packed.tokens.long()] + weights.positions[packed.positions.long() + weights.first_position]
    return total if weights.types is None else total + weights.types[0]
