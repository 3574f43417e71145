"""The Triton side of `short_attention`: two kernels and their launch."""

from __future__ import annotations

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
def _forward_kernel(
    q, k, v, out, groups, text_of, scale, q_token, k_token, v_token, q_head, k_head, v_head, heads,
    width: tl.constexpr, block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    some, token, inside, same = _tile(groups, text_of, block)
    if some:
        head = tl.program_id(1)
        column = tl.arange(0, width)[None, :]
        rows = token[:, None].to(tl.int64)
        mask = inside[:, None]
        qs = tl.load(q + rows * q_token + head * q_head + column, mask=mask, other=0.0)
        ks = tl.load(k + rows * k_token + head * k_head + column, mask=mask, other=0.0)
        vs = tl.load(v + rows * v_token + head * v_head + column, mask=mask, other=0.0)
        p = _probabilities(qs, ks, same, scale, precision)
        o = tl.dot(p.to(vs.dtype), vs, input_precision=precision)
        tl.store(out + (rows * heads + head) * width + column, o.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(
    q, k, v, dout, dq, dk, dv, groups, text_of, scale,
    q_token, k_token, v_token, o_token, q_head, k_head, v_head, o_head, heads,
    width: tl.constexpr, block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    some, token, inside, same = _tile(groups, text_of, block)
    if some:
        head = tl.program_id(1)
        column = tl.arange(0, width)[None, :]
        rows = token[:, None].to(tl.int64)
        mask = inside[:, None]
        qs = tl.load(q + rows * q_token + head * q_head + column, mask=mask, other=0.0)
        ks = tl.load(k + rows * k_token + head * k_head + column, mask=mask, other=0.0)
        vs = tl.load(v + rows * v_token + head * v_head + column, mask=mask, other=0.0)
        dos = tl.load(dout + rows * o_token + head * o_head + column, mask=mask, other=0.0)
        p = _probabilities(qs, ks, same, scale, precision)
        target = (rows * heads + head) * width + column
        dvs = tl.dot(tl.trans(p.to(dos.dtype)), dos, input_precision=precision)
        tl.store(dv + target, dvs.to(dv.dtype.element_ty), mask=mask)
        dp = tl.dot(dos, tl.trans(vs), input_precision=precision)
        ds = (p * (dp - tl.sum(p * dp, 1)[:, None]) * scale).to(qs.dtype)
        tl.store(dq + target, tl.dot(ds, ks, input_precision=precision).to(dq.dtype.element_ty), mask=mask)
        tl.store(dk + target, tl.dot(tl.trans(ds), qs, input_precision=precision).to(dk.dtype.element_ty), mask=mask)


def _launch(q: Tensor, groups: Tensor, block: int) -> tuple[tuple[int, int], dict[str, int | str]]:
    precision = "ieee" if q.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32 else "tf32"
    return (len(groups) - 1, q.shape[1]), {
        "width": q.shape[2],
        "block": block,
        "precision": precision,
        "num_warps": 4 if block <= 64 else 8,
        "num_stages": 1,
    }


def forward(q: Tensor, k: Tensor, v: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int) -> Tensor:
    """See `short_attention`."""
    q, k, v = (_rows_contiguous(x) for x in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    grid, constants = _launch(q, groups, block)
    _forward_kernel[grid](
        q, k, v, out, groups, text_of, scale, q.stride(0), k.stride(0), v.stride(0),
        q.stride(1), k.stride(1), v.stride(1), q.shape[1], **constants,
    )  # fmt: skip
    return out


def backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, groups: Tensor, text_of: Tensor, scale: float, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, each [T, A, D]."""
    q, k, v, dout = (_rows_contiguous(x) for x in (q, k, v, dout))
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    grid, constants = _launch(q, groups, block)
    _backward_kernel[grid](
        q, k, v, dout, dq, dk, dv, groups, text_of, scale,
        q.stride(0), k.stride(0), v.stride(0), dout.stride(0),
        q.stride(1), k.stride(1), v.stride(1), dout.stride(1), q.shape[1], **constants,
    )  # fmt: skip
    return dq, dk, dv


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()
