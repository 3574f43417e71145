"""Attention over packed texts of any length: tiles of queries walk over the keys of the texts that they touch.

What a tile walks over is found on the host: the span from the first token of its first text to the last of its last.
The forward keeps each query's log-sum of weights, from which the backward recomputes them, once per tile of queries and
once per tile of keys, without atomics (deterministic). T tokens packed, A heads, D head width, G tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gram_core.kernels._short_attention_triton import _load, _store
from gram_core.packing import WALKING


@triton.jit
def _rows(rows, token, inside, heads, width: tl.constexpr):
    row = token[:, None].to(tl.int64) * heads + tl.program_id(1)
    return tl.load(rows + row * width + tl.arange(0, width)[None, :], mask=inside[:, None], other=0.0)


@triton.jit
def _tile(spans, text_of, tokens, block: tl.constexpr):
    token = tl.program_id(0) * block + tl.arange(0, block)
    inside = token < tokens
    text = tl.load(text_of + token, mask=inside, other=-1)
    return token, inside, text, tl.load(spans + 2 * tl.program_id(0)), tl.load(spans + 2 * tl.program_id(0) + 1)


@triton.jit(do_not_specialize=["tokens"])
def _forward_kernel(
    qkv, out, logs, spans, text_of, tokens, scale, heads,
    width: tl.constexpr, block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    token, inside, text, start, stop = _tile(spans, text_of, tokens, block)
    q = _load(qkv, 0, token, inside, heads, width)
    highest = tl.full((block,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((block,), dtype=tl.float32)
    mixed = tl.zeros((block, width), dtype=tl.float32)
    for first in range(start, stop, block):
        other = first + tl.arange(0, block)
        held = other < stop
        k = _load(qkv, 1, other, held, heads, width)
        v = _load(qkv, 2, other, held, heads, width)
        same = text[:, None] == tl.load(text_of + other, mask=held, other=-2)[None, :]
        scores = tl.where(same, tl.dot(q, tl.trans(k), input_precision=precision) * scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # of a query that has met no key of its text yet
        p = tl.exp(scores - base[:, None])
        faded = tl.exp(highest - base)
        total = total * faded + tl.sum(p, 1)
        mixed = mixed * faded[:, None] + tl.dot(p.to(v.dtype), v, input_precision=precision)
        highest = higher
    total = tl.where(inside, total, 1.0)
    row = token[:, None].to(tl.int64) * heads + tl.program_id(1)
    place = out + row * width + tl.arange(0, width)[None, :]
    tl.store(place, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(logs + tl.program_id(1).to(tl.int64) * tokens + token, highest + tl.log(total), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def _queries_kernel(
    dout, out, logs, deltas, qkv, dqkv, sums, spans, text_of, tokens, scale, heads, sum_stride,
    width: tl.constexpr, block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    token, inside, text, start, stop = _tile(spans, text_of, tokens, block)
    q = _load(qkv, 0, token, inside, heads, width)
    do = _rows(dout, token, inside, heads, width)
    delta = tl.sum(do.to(tl.float32) * _rows(out, token, inside, heads, width).to(tl.float32), 1)
    of_head = tl.program_id(1).to(tl.int64) * tokens
    tl.store(deltas + of_head + token, delta, mask=inside)
    log = tl.load(logs + of_head + token, mask=inside, other=0.0)
    dq = tl.zeros((block, width), dtype=tl.float32)
    for first in range(start, stop, block):
        other = first + tl.arange(0, block)
        held = other < stop
        k = _load(qkv, 1, other, held, heads, width)
        v = _load(qkv, 2, other, held, heads, width)
        same = text[:, None] == tl.load(text_of + other, mask=held, other=-2)[None, :]
        scores = tl.dot(q, tl.trans(k), input_precision=precision) * scale
        p = tl.where(same, tl.exp(scores - log[:, None]), 0.0)
        dp = tl.dot(do, tl.trans(v), input_precision=precision)
        ds = (p * (dp - delta[:, None]) * scale).to(k.dtype)
        dq += tl.dot(ds, k, input_precision=precision)
    _store(dqkv, 0, dq, token, inside, heads, width)
    place = sums + tl.program_id(0).to(tl.int64) * sum_stride + tl.program_id(1) * width + tl.arange(0, width)
    tl.store(place, tl.sum(dq, 0))


@triton.jit(do_not_specialize=["tokens"])
def _keys_kernel(
    dout, logs, deltas, qkv, dqkv, sums, spans, text_of, tokens, scale, heads, sum_stride,
    width: tl.constexpr, block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    token, inside, text, start, stop = _tile(spans, text_of, tokens, block)
    k = _load(qkv, 1, token, inside, heads, width)
    v = _load(qkv, 2, token, inside, heads, width)
    of_head = tl.program_id(1).to(tl.int64) * tokens
    dk = tl.zeros((block, width), dtype=tl.float32)
    dv = tl.zeros((block, width), dtype=tl.float32)
    for first in range(start, stop, block):
        other = first + tl.arange(0, block)
        held = other < stop
        q = _load(qkv, 0, other, held, heads, width)
        do = _rows(dout, other, held, heads, width)
        log = tl.load(logs + of_head + other, mask=held, other=0.0)
        delta = tl.load(deltas + of_head + other, mask=held, other=0.0)
        same = tl.load(text_of + other, mask=held, other=-2)[:, None] == text[None, :]
        scores = tl.dot(q, tl.trans(k), input_precision=precision) * scale
        p = tl.where(same, tl.exp(scores - log[:, None]), 0.0)
        dv += tl.dot(tl.trans(p.to(do.dtype)), do, input_precision=precision)
        dp = tl.dot(do, tl.trans(v), input_precision=precision)
        ds = (p * (dp - delta[:, None]) * scale).to(q.dtype)
        dk += tl.dot(tl.trans(ds), q, input_precision=precision)
    _store(dqkv, 1, dk, token, inside, heads, width)
    _store(dqkv, 2, dv, token, inside, heads, width)
    place = sums + tl.program_id(0).to(tl.int64) * sum_stride + tl.program_id(1) * width + tl.arange(0, width)
    tl.store(place + heads * width, tl.sum(dk, 0))
    tl.store(place + 2 * heads * width, tl.sum(dv, 0))


def _constants(qkv: Tensor) -> dict[str, int | str]:
    exact = qkv.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    precision = "tf32x3" if exact else "tf32"
    return {"width": qkv.shape[3], "block": WALKING, "precision": precision, "num_warps": 4, "num_stages": 2}


def forward(qkv: Tensor, spans: Tensor, text_of: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention within each text: queries, keys and values qkv [T, 3, A, D] -> [T, A, D], and log-sums [A, T].

    spans: int32 [2 G], for each tile of WALKING tokens the first token of its texts and the one behind their last;
    text_of: int32 [T], a number per token that is the same within a text and differs from those of others.
    """
    tokens, _, heads, width = qkv.shape
    out = torch.empty(tokens, heads, width, dtype=qkv.dtype, device=qkv.device)
    logs = torch.empty(heads, tokens, dtype=torch.float32, device=qkv.device)
    _forward_kernel[(triton.cdiv(tokens, WALKING), heads)](
        qkv, out, logs, spans, text_of, tokens, scale, heads, **_constants(qkv)
    )
    return out, logs


def backward(
    dout: Tensor, out: Tensor, logs: Tensor, qkv: Tensor, spans: Tensor, text_of: Tensor, scale: float, sums: Tensor
) -> Tensor:
    """The gradient of qkv [T, 3, A, D]; `sums` [G, 3 A D] get its sums over each tile's tokens."""
    tokens, _, heads, _ = qkv.shape
    dqkv, deltas = torch.empty_like(qkv), torch.empty_like(logs)
    grid, last = (triton.cdiv(tokens, WALKING), heads), (spans, text_of, tokens, scale, heads, sums.stride(0))
    _queries_kernel[grid](dout, out, logs, deltas, qkv, dqkv, sums, *last, **_constants(qkv))
    _keys_kernel[grid](dout, logs, deltas, qkv, dqkv, sums, *last, **_constants(qkv))
    return dqkv
