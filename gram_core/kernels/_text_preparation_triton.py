"""Norms and rotary positions on a GPU, where attention does not see to them itself: a pass over queries or keys.

The tiles that hold whole texts prepare queries and keys as they load them. Those that walk meet them again and again,
and would prepare them again and again. The gradient of a norm is a pass of its own in any case.
T tokens packed, A heads, D head width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gram_core.kernels._text_tiles_triton import (
    load_head,
    load_rows,
    load_tables,
    load_weights,
    store_rows,
    to_unit_size,
)
from gram_core.kernels.prepared_heads import Norm

ROWS, WARPS = 16, 4
"""Tokens of a program, whose tables stay near while all heads go by, and its warps."""


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
    c, s = load_tables(cos, sin, turn_row, token, inside, half, real, False)
    if normed:
        weight_near, weight_far = load_weights(weight, half, real)
        of_near = tl.zeros((rows, half), dtype=tl.float32)
        of_far = tl.zeros((rows, half), dtype=tl.float32)
    for _ in range(0, heads):
        turned_near = load_rows(gradient, g_row, token, inside, half, real).to(tl.float32)
        turned_far = load_rows(gradient + real, g_row, token, inside, half, real).to(tl.float32)
        near, far = turned_near * c + turned_far * s, turned_far * c - turned_near * s
        if normed:
            unit_near = load_rows(x, x_row, token, inside, half, real).to(tl.float32)
            unit_far = load_rows(x + real, x_row, token, inside, half, real).to(tl.float32)
            unit_near, unit_far, inverse = to_unit_size(unit_near, unit_far, eps, real)
            of_near += near * unit_near
            of_far += far * unit_far
            near, far = near * weight_near, far * weight_far
            along = (tl.sum(near * unit_near, 1) + tl.sum(far * unit_far, 1))[:, None] / (2 * real)
            near, far = (near - unit_near * along) * inverse, (far - unit_far * along) * inverse
        store_rows(gradient, g_row, near, token, inside, half, real)
        store_rows(gradient + real, g_row, far, token, inside, half, real)
        x += x_head
        gradient += columns
    if normed:
        place = shares + tl.program_id(0) * width + tl.arange(0, half)
        tl.store(place, tl.sum(of_near, 0))
        tl.store(place + half, tl.sum(of_far, 0))


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
        {"columns": x.shape[2], "width": width, "rows": ROWS, "normed": norm is not None, "num_warps": WARPS},
    )
