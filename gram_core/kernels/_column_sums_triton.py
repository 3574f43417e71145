"""The Triton side of `column_sums`."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["programs"])
def _column_sums_kernel(partials, out, programs, columns, block: tl.constexpr, tile: tl.constexpr):
    column = tl.program_id(0) * block + tl.arange(0, block)
    held = column < columns
    total = tl.zeros((tile, block), dtype=tl.float32)
    for first in range(0, programs, tile):
        row = first + tl.arange(0, tile)
        some = (row < programs)[:, None] & held[None, :]
        total += tl.load(partials + row[:, None].to(tl.int64) * columns + column[None, :], mask=some, other=0.0)
    tl.store(out + column, tl.sum(total, 0), mask=held)


def column_sums(partials: Tensor, out: Tensor) -> Tensor:
    """See `column_sums.column_sums`."""
    programs, columns = partials.shape
    _column_sums_kernel[(triton.cdiv(columns, 64),)](partials, out, programs, columns, block=64, tile=32, num_warps=4)
    return out
