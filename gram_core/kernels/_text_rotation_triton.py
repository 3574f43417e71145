"""Rotary positions on a GPU, where attention does not turn heads by itself: one pass over queries or keys.

T tokens packed, A heads, D head width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gram_core.kernels._text_tiles_triton import load_head, load_rows, store_rows, store_turned_back

ROWS = 16
"""Tokens of a program, whose tables stay in registers while all heads go by."""


@triton.jit(do_not_specialize=["tokens"])
def rotation_kernel(
    x, out, cos, sin, tokens, heads, x_row, x_head, turn_row,
    columns: tl.constexpr, width: tl.constexpr, rows: tl.constexpr, back: tl.constexpr,
):  # fmt: skip
    """x [T, A, D] turned, or turned back, to out [T, A, D], which is contiguous and may be x itself."""
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    inside = token < tokens
    half: tl.constexpr = width // 2
    real: tl.constexpr = columns // 2
    for _ in range(0, heads):
        if back:
            near = load_rows(x, x_row, token, inside, half, real).to(tl.float32)
            far = load_rows(x + real, x_row, token, inside, half, real).to(tl.float32)
            store_turned_back(out, heads * columns, near, far, cos, sin, turn_row, token, inside, half, real)
        else:
            near, far = load_head(x, x_row, cos, sin, turn_row, token, inside, width, columns, True)
            store_rows(out, heads * columns, near, token, inside, half, real)
            store_rows(out + real, heads * columns, far, token, inside, half, real)
        x += x_head
        out += columns


def rotated(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """Heads x [T, A, D] as `gram_core.kernels.rotation.rotated` turns them; back: as `rotated_back` does, in place."""
    tokens, heads, columns = x.shape
    out = x if back else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    half = max(16, triton.next_power_of_2(columns // 2))
    rotation_kernel[(triton.cdiv(tokens, ROWS),)](
        x, out, cos, sin, tokens, heads, x.stride(0), x.stride(1), cos.stride(0),
        columns=columns, width=2 * half, rows=ROWS, back=back, num_warps=4,
    )  # fmt: skip
    return out
