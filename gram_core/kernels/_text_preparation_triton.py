"""Norms and rotary positions on a GPU, where attention does not see to them itself: a pass over queries or keys.

The tiles that hold whole texts meet each key twice at most, and prepare it as they load it. Those that walk meet it
again and again, and would again and again prepare it. T tokens packed, A heads, D head width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gram_core.kernels._text_tiles_triton import load_head, load_rows, store_rows, store_turned_back
from gram_core.kernels.prepared_heads import Norm

ROWS = 16
"""Tokens of a program, whose tables stay near while all heads go by."""


@triton.jit(do_not_specialize=["tokens"])
def prepare_kernel(
    x, out, cos, sin, weight, eps, tokens, heads, x_row, x_head, turn_row,
    columns: tl.constexpr, width: tl.constexpr, rows: tl.constexpr, normed: tl.constexpr,
):  # fmt: skip
    """x [T, A, D] prepared, to out [T, A, D], which is contiguous."""
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    inside = token < tokens
    half: tl.constexpr = width // 2
    real: tl.constexpr = columns // 2
    for _ in range(0, heads):
        near, far = load_head(
            x, x_row, cos, sin, turn_row, weight, eps, token, inside, width, columns, True, normed
        )  # fmt: skip
        store_rows(out, heads * columns, near, token, inside, half, real)
        store_rows(out + real, heads * columns, far, token, inside, half, real)
        x += x_head
        out += columns


@triton.jit(do_not_specialize=["tokens"])
def gradient_kernel(
    x, gradient, shares, cos, sin, weight, eps, tokens, heads, x_row, x_head, g_row, turn_row,
    columns: tl.constexpr, width: tl.constexpr, rows: tl.constexpr, normed: tl.constexpr,
):  # fmt: skip
    """gradient [T, A, D] of what was prepared becomes that of x. shares [programs, 2, width / 2]: of the weight's."""
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    inside = token < tokens
    half: tl.constexpr = width // 2
    real: tl.constexpr = columns // 2
    of_near = tl.zeros((half,), dtype=tl.float32)
    of_far = tl.zeros((half,), dtype=tl.float32)
    for _ in range(0, heads):
        near = load_rows(gradient, g_row, token, inside, half, real).to(tl.float32)
        far = load_rows(gradient + real, g_row, token, inside, half, real).to(tl.float32)
        near_share, far_share = store_turned_back(
            gradient, g_row, near, far, x, x_row, cos, sin, turn_row, weight, eps, token, inside, half, real, normed
        )
        of_near += near_share
        of_far += far_share
        x += x_head
        gradient += columns
    if normed:
        place = shares + tl.program_id(0) * width + tl.arange(0, half)
        tl.store(place, of_near)
        tl.store(place + half, of_far)


def prepared(x: Tensor, cos: Tensor, sin: Tensor, norm: Norm | None) -> Tensor:
    """Heads x [T, A, D] prepared, contiguous."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    weight, eps, sizes = _sizes(x, norm)
    prepare_kernel[(triton.cdiv(len(x), ROWS),)](
        x, out, cos, sin, weight, eps, len(x), x.shape[1], *x.stride()[:2], cos.stride(0), **sizes
    )
    return out


def turn_back(gradient: Tensor, x: Tensor, cos: Tensor, sin: Tensor, norm: Norm | None) -> Tensor:
    """Has `gradient` [T, A, D] of heads prepared become that of x, in place; returns shares of the weight's.

    [programs, 2, half], of each half's columns, of which those beyond D / 2 are nought.
    """
    weight, eps, sizes = _sizes(x, norm)
    programs = triton.cdiv(len(x), ROWS)
    shares = torch.empty(
        0 if norm is None else (programs, 2, sizes["width"] // 2), dtype=torch.float32, device=x.device
    )
    strides = (*x.stride()[:2], gradient.stride(0), cos.stride(0))
    gradient_kernel[(programs,)](
        x, gradient, shares, cos, sin, weight, eps, len(x), x.shape[1], *strides, **sizes
    )  # fmt: skip
    return shares


def _sizes(x: Tensor, norm: Norm | None) -> tuple[Tensor, float, dict[str, int]]:
    weight, eps = (x, 0.0) if norm is None else (norm.weight, norm.eps)
    width = 2 * max(16, triton.next_power_of_2(x.shape[2] // 2))
    return (
        weight,
        eps,
        {"columns": x.shape[2], "width": width, "rows": ROWS, "normed": norm is not None, "num_warps": 4},
    )
