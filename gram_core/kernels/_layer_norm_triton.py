"""The Triton side of `layer_norm`."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["rows"])
def _add_norm_kernel(x, residual, weight, bias, out, statistics, rows, width, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    held = column < width
    place = row * width + column
    total = tl.load(x + place, mask=held, other=0.0).to(tl.float32)
    total += tl.load(residual + place, mask=held, other=0.0).to(tl.float32)
    total = total.to(x.dtype.element_ty)  # the statistics are those of what the backward reads
    tl.store(x + place, total, mask=held)
    total = total.to(tl.float32)
    mean = tl.sum(total, 0) / width
    centred = tl.where(held, total - mean, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    w = tl.load(weight + column, mask=held, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=held, other=0.0).to(tl.float32)
    tl.store(out + place, (centred * inverse * w + b).to(out.dtype.element_ty), mask=held)
    tl.store(statistics + row, mean)
    tl.store(statistics + rows + row, inverse)


@triton.jit
def _norm_backward(dy, total, statistics, weight, row, rows, some, width):
    """Of rows [tile, block]: the gradient of what was normed, and normed rows; both zero outside `some`."""
    mean = tl.load(statistics + row, mask=row < rows, other=0.0)[:, None]
    inverse = tl.load(statistics + rows + row, mask=row < rows, other=0.0)[:, None]
    normed = tl.where(some, (total - mean) * inverse, 0.0)
    inner = dy * weight
    moved = inner - (tl.sum(inner, 1)[:, None] + normed * tl.sum(inner * normed, 1)[:, None]) / width
    return tl.where(some, moved * inverse, 0.0), normed


@triton.jit(do_not_specialize=["rows"])
def _add_norm_backward_kernel(
    gradient, also, x, statistics, weight, partials, rows, width, partial_stride,
    two: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, block)
    held = column < width
    w = tl.load(weight + column, mask=held, other=0.0).to(tl.float32)[None, :]
    of_weight = tl.zeros((tile, block), dtype=tl.float32)
    of_bias = tl.zeros((tile, block), dtype=tl.float32)
    of_sum = tl.zeros((tile, block), dtype=tl.float32)
    for first in range(tl.program_id(0) * tile, rows, tl.num_programs(0) * tile):
        row = first + tl.arange(0, tile)
        some = (row < rows)[:, None] & held[None, :]
        place = row[:, None].to(tl.int64) * width + column[None, :]
        dy = tl.load(gradient + place, mask=some, other=0.0).to(tl.float32)
        if two:
            dy += tl.load(also + place, mask=some, other=0.0).to(tl.float32)
        total = tl.load(x + place, mask=some, other=0.0).to(tl.float32)
        moved, normed = _norm_backward(dy, total, statistics, w, row, rows, some, width)
        tl.store(gradient + place, moved.to(gradient.dtype.element_ty), mask=some)
        of_weight += dy * normed
        of_bias += dy
        of_sum += moved
    place = partials + tl.program_id(0).to(tl.int64) * partial_stride + column
    tl.store(place, tl.sum(of_weight, 0), mask=held)
    tl.store(place + width, tl.sum(of_bias, 0), mask=held)
    tl.store(place + 2 * width, tl.sum(of_sum, 0), mask=held)


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `layer_norm.add_norm`."""
    rows, width = x.shape
    out = torch.empty_like(x)
    statistics = torch.empty(2, rows, dtype=torch.float32, device=x.device)
    _add_norm_kernel[(rows,)](
        x, residual, weight, bias, out, statistics, rows, width, eps,
        block=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip
    return out, statistics


def add_norm_backward(
    gradient: Tensor, also: Tensor | None, x: Tensor, statistics: Tensor, weight: Tensor, partials: Tensor
) -> Tensor:
    """See `layer_norm.add_norm_backward`."""
    rows, width = x.shape
    _add_norm_backward_kernel[(len(partials),)](
        gradient, gradient if also is None else also, x, statistics, weight, partials, rows, width, partials.stride(0),
        two=also is not None, block=triton.next_power_of_2(width), tile=2, num_warps=4,
    )  # fmt: skip
    return gradient
