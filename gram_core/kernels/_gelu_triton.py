"""The Triton side of `gelu`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROOT_HALF = tl.constexpr(0.7071067811865476)
_DENSITY = tl.constexpr(0.3989422804014327)
"""1 / sqrt(2 pi)."""


@triton.jit
def _gelu_kernel(x, out, count, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    held = place < count
    value = tl.load(x + place, mask=held, other=0.0).to(tl.float32)
    result = 0.5 * value * (1.0 + tl.erf(value * _ROOT_HALF))
    tl.store(out + place, result.to(out.dtype.element_ty), mask=held)


@triton.jit(do_not_specialize=["rows"])
def _gelu_backward_kernel(gradient, x, partials, rows, width, partial_stride, block: tl.constexpr, tile: tl.constexpr):
    column = tl.program_id(0) * block + tl.arange(0, block)
    held = column < width
    total = tl.zeros((tile, block), dtype=tl.float32)
    for first in range(tl.program_id(1) * tile, rows, tl.num_programs(1) * tile):
        row = first + tl.arange(0, tile)
        some = (row < rows)[:, None] & held[None, :]
        place = row[:, None].to(tl.int64) * width + column[None, :]
        value = tl.load(x + place, mask=some, other=0.0).to(tl.float32)
        dy = tl.load(gradient + place, mask=some, other=0.0).to(tl.float32)
        below = 0.5 * (1.0 + tl.erf(value * _ROOT_HALF))
        moved = dy * (below + value * _DENSITY * tl.exp(-0.5 * value * value))
        tl.store(gradient + place, moved.to(gradient.dtype.element_ty), mask=some)
        total += moved
    tl.store(partials + tl.program_id(1).to(tl.int64) * partial_stride + column, tl.sum(total, 0), mask=held)


def gelu(x: Tensor) -> Tensor:
    """See `gelu.gelu`."""
    out = torch.empty_like(x)
    _gelu_kernel[(triton.cdiv(x.numel(), 2048),)](x, out, x.numel(), block=2048, num_warps=4)
    return out


def gelu_backward(gradient: Tensor, x: Tensor, partials: Tensor) -> Tensor:
    """See `gelu.gelu_backward`."""
    rows, width = x.shape
    _gelu_backward_kernel[(triton.cdiv(width, 512), len(partials))](
        gradient, x, partials, rows, width, partials.stride(0), block=512, tile=4, num_warps=4
    )
    return gradient
