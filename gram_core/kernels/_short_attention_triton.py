"""Attention over packed short texts: several whole texts share one tile, so no tile is mostly padding.

Consecutive texts are grouped so that each group fits one tile of `block` tokens. One program handles one
group and head: the scores of a whole tile fit on chip, so the forward saves nothing but its inputs, and the
backward recomputes the softmax and writes all three gradients in one pass, without atomics (deterministic).
Variable-length attention in 128-wide tiles per text would compute 128 columns for a text of 20 tokens.

T tokens packed, A heads, D head width (16, 32 or 64), G groups.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _probabilities(q, k, same, scale, precision: tl.constexpr):
    scores = tl.dot(q, tl.trans(k), input_precision=precision) * scale
    scores = tl.where(same, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _tile(groups, text_of, block: tl.constexpr):
    start = tl.load(groups + tl.program_id(0))
    stop = tl.load(groups + tl.program_id(0) + 1)
    token = start + tl.arange(0, block)
    inside = token < stop
    text = tl.load(text_of + token, mask=inside, other=-1)
    return start < stop, token, inside, text[:, None] == text[None, :]


@triton.jit
def _load(qkv, part: tl.constexpr, token, inside, heads, width: tl.constexpr):
    column = tl.arange(0, width)[None, :]
    row = (token[:, None].to(tl.int64) * 3 + part) * heads + tl.program_id(1)
    return tl.load(qkv + row * width + column, mask=inside[:, None], other=0.0)


@triton.jit
def _store(dqkv, part: tl.constexpr, values, token, inside, heads, width: tl.constexpr):
    column = tl.arange(0, width)[None, :]
    row = (token[:, None].to(tl.int64) * 3 + part) * heads + tl.program_id(1)
    tl.store(dqkv + row * width + column, values.to(dqkv.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _forward_kernel(
    qkv, out, groups, text_of, scale, heads, width: tl.constexpr, block: tl.constexpr, precision: tl.constexpr
):
    some, token, inside, same = _tile(groups, text_of, block)
    if some:
        q = _load(qkv, 0, token, inside, heads, width)
        k = _load(qkv, 1, token, inside, heads, width)
        v = _load(qkv, 2, token, inside, heads, width)
        p = _probabilities(q, k, same, scale, precision)
        o = tl.dot(p.to(v.dtype), v, input_precision=precision)
        row = token[:, None].to(tl.int64) * heads + tl.program_id(1)
        column = tl.arange(0, width)[None, :]
        tl.store(out + row * width + column, o.to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _backward_kernel(
    qkv, dout, dqkv, groups, text_of, sums, sum_stride, scale, heads,
    width: tl.constexpr, block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    some, token, inside, same = _tile(groups, text_of, block)
    column = tl.arange(0, width)
    place = sums + tl.program_id(0).to(tl.int64) * sum_stride + tl.program_id(1) * width + column
    if some:
        q = _load(qkv, 0, token, inside, heads, width)
        k = _load(qkv, 1, token, inside, heads, width)
        v = _load(qkv, 2, token, inside, heads, width)
        row = token[:, None].to(tl.int64) * heads + tl.program_id(1)
        do = tl.load(dout + row * width + column[None, :], mask=inside[:, None], other=0.0)
        p = _probabilities(q, k, same, scale, precision)
        dv = tl.dot(tl.trans(p.to(do.dtype)), do, input_precision=precision)
        _store(dqkv, 2, dv, token, inside, heads, width)
        tl.store(place + 2 * heads * width, tl.sum(dv, 0))
        dp = tl.dot(do, tl.trans(v), input_precision=precision)
        ds = (p * (dp - tl.sum(p * dp, 1)[:, None]) * scale).to(q.dtype)
        dq = tl.dot(ds, k, input_precision=precision)
        _store(dqkv, 0, dq, token, inside, heads, width)
        tl.store(place, tl.sum(dq, 0))
        dk = tl.dot(tl.trans(ds), q, input_precision=precision)
        _store(dqkv, 1, dk, token, inside, heads, width)
        tl.store(place + heads * width, tl.sum(dk, 0))
    else:
        none = tl.zeros((width,), dtype=tl.float32)
        tl.store(place, none)
        tl.store(place + heads * width, none)
        tl.store(place + 2 * heads * width, none)


def _constants(qkv: Tensor, block: int) -> dict[str, int | str]:
    exact = qkv.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return {
        "width": qkv.shape[3],
        "block": block,
        "precision": "tf32x3" if exact else "tf32",
        "num_warps": 4 if block <= 64 else 8,
        "num_stages": 1,
    }


def forward(qkv: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int) -> Tensor:
    """Attention within each text: queries, keys and values qkv [T, 3, A, D] -> [T, A, D].

    groups: int32 [G + 1], the token at which each group of whole texts starts, at most `block` apart; they
    must cover all T tokens (rows outside any group are left unwritten). text_of: int32 [T], a number per
    token that is the same within a text and differs between neighbours.
    """
    out = torch.empty(qkv.shape[0], *qkv.shape[2:], dtype=qkv.dtype, device=qkv.device)
    _forward_kernel[(len(groups) - 1, qkv.shape[2])](
        qkv, out, groups, text_of, scale, qkv.shape[2], **_constants(qkv, block)
    )
    return out


def backward(
    dout: Tensor, qkv: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int, sums: Tensor
) -> Tensor:
    """The gradient of qkv [T, 3, A, D]; `sums` [G, 3 A D] get its sums over each group's tokens."""
    dqkv = torch.empty_like(qkv)
    _backward_kernel[(len(groups) - 1, qkv.shape[2])](
        qkv, dout, dqkv, groups, text_of, sums, sums.stride(0), scale, qkv.shape[2], **_constants(qkv, block)
    )
    return dqkv
