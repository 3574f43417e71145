"""`text_attention` over short texts: several whole texts share a tile, so no tile is mostly padding.

One program handles one tile and, forwards, one query head, backwards one head of keys with all query heads that read
it: their shares of dk and dv are summed on chip, without atomics. Queries go through in chunks of `rows`, so that wide
heads fit; each chunk meets all keys of its texts at once, so the forward keeps nothing but its inputs.
`width` is the power of two that holds the `columns` of a head; scores are in powers of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_rows(head, row_stride, token, inside, width: tl.constexpr, columns: tl.constexpr):
    """Rows of one head, to which `head` points; zeros outside."""
    column = tl.arange(0, width)[None, :]
    mask = inside[:, None] if columns == width else inside[:, None] & (column < columns)
    return tl.load(head + token[:, None].to(tl.int64) * row_stride + column, mask=mask, other=0.0)


@triton.jit
def store_rows(head, row_stride, values, token, inside, width: tl.constexpr, columns: tl.constexpr):
    column = tl.arange(0, width)[None, :]
    mask = inside[:, None] if columns == width else inside[:, None] & (column < columns)
    place = head + token[:, None].to(tl.int64) * row_stride + column
    tl.store(place, values.to(head.dtype.element_ty), mask=mask)


@triton.jit
def add_bias(scores, bias, behind, reach):
    """behind: by how much each pair's query is the later one; `bias` points to the head's row."""
    place = tl.minimum(tl.maximum(reach - behind, 0), 2 * reach)
    return scores + tl.load(bias + place).to(tl.float32) * LOG2E


@triton.jit
def seen(same, behind, window, causal: tl.constexpr, windowed: tl.constexpr):
    """Of pairs in the same text, those that the rules allow."""
    if causal:
        same &= behind >= 0
    if windowed:
        same &= behind <= window
        if not causal:
            same &= behind >= -window
    return same


@triton.jit
def _probabilities(
    q, k, same, behind, bias, scale, window, reach,
    causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    scores = tl.dot(q, tl.trans(k), input_precision=precision) * (scale * LOG2E)
    if biased:
        scores = add_bias(scores, bias, behind, reach)
    scores = tl.where(seen(same, behind, window, causal, windowed), scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit(do_not_specialize=["window", "reach"])
def forward_kernel(
    q, k, v, out, groups, text_of, bias, scale, window, reach, heads,
    q_row, q_head, k_row, k_head, v_row, v_head,
    grouped: tl.constexpr, columns: tl.constexpr, width: tl.constexpr, block: tl.constexpr, rows: tl.constexpr,
    causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    head, group = tl.program_id(0) % heads, tl.program_id(0) // heads
    start, stop = tl.load(groups + group), tl.load(groups + group + 1)
    if start < stop:
        key_head = (head // grouped).to(tl.int64)
        token = start + tl.arange(0, block)
        inside = token < stop
        text = tl.load(text_of + token, mask=inside, other=-1)
        keys = load_rows(k + key_head * k_head, k_row, token, inside, width, columns)
        values = load_rows(v + key_head * v_head, v_row, token, inside, width, columns)
        for first in range(0, block, rows):
            asks = start + first + tl.arange(0, rows)
            held = asks < stop
            asking = tl.load(text_of + asks, mask=held, other=-1)
            queries = load_rows(q + head.to(tl.int64) * q_head, q_row, asks, held, width, columns)
            same, behind = asking[:, None] == text[None, :], asks[:, None] - token[None, :]
            p = _probabilities(
                queries, keys, same, behind, bias + head * (2 * reach + 1), scale, window, reach,
                causal, windowed, biased, precision,
            )  # fmt: skip
            o = tl.dot(p.to(values.dtype), values, input_precision=precision)
            store_rows(out + head * columns, heads * columns, o, asks, held, width, columns)


@triton.jit(do_not_specialize=["window", "reach", "count"])
def backward_kernel(
    q, k, v, dout, dq, dk, dv, pairs, groups, text_of, bias, scale, window, reach, heads, count,
    q_row, q_head, k_row, k_head, v_row, v_head, d_row, d_head,
    grouped: tl.constexpr, columns: tl.constexpr, width: tl.constexpr, block: tl.constexpr, rows: tl.constexpr,
    repeats: tl.constexpr, causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """pairs [G / repeats, A, block, block]: the gradient of scores, added up over `repeats` of the G tiles, for a bias.

    With a bias each query head has keys of its own, and rows is block.
    """
    key_heads = heads // grouped
    key_head, part = tl.program_id(0) % key_heads, tl.program_id(0) // key_heads
    if biased:
        total = tl.zeros((rows, block), dtype=tl.float32)
    for number in range(0, repeats):
        group = tl.minimum(part * repeats + number, count)
        start = tl.load(groups + group)
        stop = tl.load(groups + tl.minimum(group + 1, count))  # no tokens are left behind the last tile
        if start < stop:
            token = start + tl.arange(0, block)
            inside = token < stop
            text = tl.load(text_of + token, mask=inside, other=-1)
            keys = load_rows(k + key_head.to(tl.int64) * k_head, k_row, token, inside, width, columns)
            values = load_rows(v + key_head.to(tl.int64) * v_head, v_row, token, inside, width, columns)
            of_keys = tl.zeros((block, width), dtype=tl.float32)
            of_values = tl.zeros((block, width), dtype=tl.float32)
            for part_of in range(0, grouped * (block // rows)):
                head = key_head * grouped + part_of // (block // rows)
                asks = start + (part_of % (block // rows)) * rows + tl.arange(0, rows)
                held = asks < stop
                asking = tl.load(text_of + asks, mask=held, other=-1)
                queries = load_rows(q + head.to(tl.int64) * q_head, q_row, asks, held, width, columns)
                do = load_rows(dout + head.to(tl.int64) * d_head, d_row, asks, held, width, columns)
                same, behind = asking[:, None] == text[None, :], asks[:, None] - token[None, :]
                p = _probabilities(
                    queries, keys, same, behind, bias + head * (2 * reach + 1), scale, window, reach,
                    causal, windowed, biased, precision,
                )  # fmt: skip
                of_values += tl.dot(tl.trans(p.to(do.dtype)), do, input_precision=precision)
                dp = tl.dot(do, tl.trans(values), input_precision=precision)
                ds = p * (dp - tl.sum(p * dp, 1)[:, None])
                if biased:
                    total += ds
                ds = (ds * scale).to(queries.dtype)
                of_query = tl.dot(ds, keys, input_precision=precision)
                store_rows(dq + head * columns, heads * columns, of_query, asks, held, width, columns)
                of_keys += tl.dot(tl.trans(ds), queries, input_precision=precision)
            store_rows(dk + key_head * columns, key_heads * columns, of_keys, token, inside, width, columns)
            store_rows(dv + key_head * columns, key_heads * columns, of_values, token, inside, width, columns)
    if biased:
        place = tl.arange(0, rows)[:, None] * block + tl.arange(0, block)[None, :]
        tl.store(pairs + tl.program_id(0).to(tl.int64) * rows * block + place, total)
