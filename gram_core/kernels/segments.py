"""Sums over ragged segments, without atomics, so that they are deterministic.

R rows, n segments, m members, d width.
"""

from typing import Any

import torch
from torch import Tensor


def _segment_sum(rows: Tensor, members: Tensor | None, offsets: Tensor, mean: bool) -> Tensor:
    if rows.is_cuda:
        from gram_core.kernels import _segments_triton

        return _segments_triton.segment_sum(rows, members, offsets, mean)
    lengths = (offsets[1:] - offsets[:-1]).long()
    read = rows[: int(offsets[-1])] if members is None else rows[members[: int(offsets[-1])].long()]
    out = torch.zeros(len(lengths), rows.shape[1], dtype=_sum_dtype(rows))
    out.index_add_(0, torch.repeat_interleave(torch.arange(len(lengths)), lengths), read.to(out.dtype))
    return out / lengths.clamp(min=1)[:, None] if mean else out


def _sum_dtype(rows: Tensor) -> torch.dtype:
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


def segment_mean(rows: Tensor, offsets: Tensor) -> Tensor:
    """Means of consecutive rows [R, d] -> [n, d] in float32 (float64 of float64); an empty segment gives zeros.

    offsets: int32 [n + 1], where each segment starts; rows behind the last belong to none.
    """
    return _segment_sum(rows, None, offsets, mean=True)


def spread_means(means: Tensor, offsets: Tensor, segment_of: Tensor, dtype: torch.dtype) -> Tensor:
    """The backward of `segment_mean`: gradients of means [n, d] -> of rows [R, d] in `dtype`.

    segment_of: int32 [R], each row's segment, n or more for rows of none, which get zeros.
    """
    if means.is_cuda:
        from gram_core.kernels import _segments_triton

        return _segments_triton.spread_means(means, offsets, segment_of, dtype)
    scaled = means / (offsets[1:] - offsets[:-1]).clamp(min=1)[:, None]
    held = segment_of < len(means)
    return torch.where(held[:, None], scaled[torch.where(held, segment_of, 0).long()], 0.0).to(dtype)


@torch.library.custom_op("gram_core::gather_rows", mutates_args=())
def gather_rows(rows: Tensor, index: Tensor, members: Tensor, offsets: Tensor) -> Tensor:
    """Rows [R, d] read at index [m] -> [m, d]; a negative index reads zeros.

    members: int32, the positions of `index` sorted by the row that they read, padding left out;
    offsets: int32 [R + 1], where each row's readers start in `members`. The backward sums each row's readers
    in that order.
    """
    return rows[index.clamp(min=0)] * (index >= 0)[:, None]


@gather_rows.register_fake
def _(rows: Tensor, index: Tensor, members: Tensor, offsets: Tensor) -> Tensor:
    return rows.new_empty(index.shape[0], rows.shape[1])


@torch.library.custom_op("gram_core::sum_readers", mutates_args=())
def sum_readers(gradient: Tensor, members: Tensor, offsets: Tensor) -> Tensor:
    """Sums of gradient rows [m, d] over each row's readers -> [R, d] in float32 (see `gather_rows`)."""
    return _segment_sum(gradient, members, offsets, mean=False)


@sum_readers.register_fake
def _(gradient: Tensor, members: Tensor, offsets: Tensor) -> Tensor:
    return gradient.new_empty(offsets.shape[0] - 1, gradient.shape[1], dtype=_sum_dtype(gradient))


def _gather_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, _, members, offsets = inputs
    ctx.dtype = rows.dtype
    ctx.save_for_backward(members, offsets)


def _gather_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return sum_readers(gradient, *ctx.saved_tensors).to(ctx.dtype), None, None, None


gather_rows.register_autograd(_gather_backward, setup_context=_gather_setup)
