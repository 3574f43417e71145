"""The Triton side of segment sums: one kernel and its launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _segment_sum_kernel(
    rows, members, offsets, out, row_stride, width, mean: tl.constexpr, indirect: tl.constexpr,
    block: tl.constexpr, unroll: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0)
    start = tl.load(offsets + segment)
    stop = tl.load(offsets + segment + 1)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    total = tl.zeros((block,), dtype=tl.float32)
    for first in range(start, stop, unroll):
        member = first + tl.arange(0, unroll)
        held = member < stop
        row = tl.load(members + member, mask=held, other=0) if indirect else member
        part = tl.load(
            rows + row[:, None].to(tl.int64) * row_stride + column[None, :],
            mask=held[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        total += tl.sum(part.to(tl.float32), 0)
    if mean:
        total = total / tl.maximum(stop - start, 1).to(tl.float32)
    tl.store(out + segment.to(tl.int64) * width + column, total.to(out.dtype.element_ty), mask=inside)


def segment_sum(rows: Tensor, members: Tensor | None, offsets: Tensor, mean: bool) -> Tensor:
    """Sums or means of rows [R, d] per segment -> [n, d] float32; of `members` in turn where they are given."""
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    out = torch.empty(len(offsets) - 1, rows.shape[1], dtype=torch.float32, device=rows.device)
    block = min(256, triton.next_power_of_2(rows.shape[1]))
    _segment_sum_kernel[(len(offsets) - 1, triton.cdiv(rows.shape[1], block))](
        rows, offsets if members is None else members, offsets, out, rows.stride(0), rows.shape[1],
        mean=mean, indirect=members is not None, block=block, unroll=8, num_warps=2,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["rows", "segments"])
def _spread_kernel(means, offsets, segment_of, out, rows, segments, width, block: tl.constexpr, tile: tl.constexpr):
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    column = tl.arange(0, block)
    segment = tl.load(segment_of + row, mask=row < rows, other=segments)
    held = segment < segments
    length = tl.load(offsets + segment + 1, mask=held, other=1) - tl.load(offsets + segment, mask=held, other=0)
    value = tl.load(
        means + segment[:, None].to(tl.int64) * width + column[None, :],
        mask=held[:, None] & (column < width)[None, :], other=0.0,
    )  # fmt: skip
    value = value.to(tl.float32) / tl.maximum(length, 1).to(tl.float32)[:, None]
    place = row[:, None].to(tl.int64) * width + column[None, :]
    tl.store(out + place, value.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (column < width)[None, :])


def spread_means(means: Tensor, offsets: Tensor, segment_of: Tensor, dtype: torch.dtype) -> Tensor:
    """See `segments.spread_means`."""
    rows, (segments, width) = len(segment_of), means.shape
    out = torch.empty(rows, width, dtype=dtype, device=means.device)
    _spread_kernel[(triton.cdiv(rows, 4),)](
        means.contiguous(), offsets, segment_of, out, rows, segments, width,
        block=triton.next_power_of_2(width), tile=4, num_warps=8,
    )  # fmt: skip
    return out
