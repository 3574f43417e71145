"""`text_attention` over short texts: several whole texts share a tile, so no tile is mostly padding.

One program handles one tile and, forwards, one query head, backwards one head of keys with all query heads that read
it: their shares of dk and dv are summed on chip, without atomics. Queries go through in chunks of `rows`, so that wide
heads fit; each chunk meets all keys of its texts at once. The forward keeps each query's log-sum of weights.
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


@triton.jit(do_not_specialize=["window", "reach", "tokens"])
def forward_kernel(
    q, k, v, out, logs, groups, text_of, bias, scale, window, reach, heads, tokens,
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
        for first in tl.range(0, block, rows, disable_licm=rows < block):
            asks = start + first + tl.arange(0, rows)
            held = asks < stop
            asking = tl.load(text_of + asks, mask=held, other=-1)
            queries = load_rows(q + head.to(tl.int64) * q_head, q_row, asks, held, width, columns)
            same, behind = asking[:, None] == text[None, :], asks[:, None] - token[None, :]
            scores = tl.dot(queries, tl.trans(keys), input_precision=precision) * (scale * LOG2E)
            if biased:
                scores = add_bias(scores, bias + head * (2 * reach + 1), behind, reach)
            scores = tl.where(seen(same, behind, window, causal, windowed), scores, float("-inf"))
            highest = tl.max(scores, 1)
            p = tl.exp2(scores - highest[:, None])
            total = tl.sum(p, 1)
            o = tl.dot((p * (1.0 / total)[:, None]).to(values.dtype), values, input_precision=precision)
            store_rows(out + head * columns, heads * columns, o, asks, held, width, columns)
            tl.store(logs + head.to(tl.int64) * tokens + asks, highest + tl.log2(total), mask=held)


@triton.jit(do_not_specialize=["window", "reach", "tokens", "tiles"])
def backward_kernel(
    q, k, v, dout, logs, dq, dk, dv, pairs, groups, text_of, bias, scale, window, reach, heads, tokens, tiles,
    q_row, q_head, k_row, k_head, v_row, v_head, d_row, d_head,
    grouped: tl.constexpr, columns: tl.constexpr, width: tl.constexpr, block: tl.constexpr, rows: tl.constexpr,
    repeats: tl.constexpr, causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """pairs [tiles / repeats, A, block, block]: the gradient of scores, added up over `repeats` tiles, for a bias.

    By key, then query, as are all pairs here: so weights need not be turned over. With a bias each query head has keys
    of its own, and rows is block.
    """
    key_heads = heads // grouped
    key_head, part = tl.program_id(0) % key_heads, tl.program_id(0) // key_heads
    if biased:
        sums = tl.zeros((block, rows), dtype=tl.float32)
    for number in tl.range(0, repeats, disable_licm=repeats > 1):
        group = tl.minimum(part * repeats + number, tiles)
        start = tl.load(groups + group)
        stop = tl.load(groups + tl.minimum(group + 1, tiles))  # no tokens are left behind the last tile
        if start < stop:
            token = start + tl.arange(0, block)
            inside = token < stop
            text = tl.load(text_of + token, mask=inside, other=-1)
            keys = load_rows(k + key_head.to(tl.int64) * k_head, k_row, token, inside, width, columns)
            values = load_rows(v + key_head.to(tl.int64) * v_head, v_row, token, inside, width, columns)
            of_keys = tl.zeros((block, width), dtype=tl.float32)
            of_values = tl.zeros((block, width), dtype=tl.float32)
            for part_of in tl.range(0, grouped * (block // rows), disable_licm=grouped * (block // rows) > 1):
                head = key_head * grouped + part_of // (block // rows)
                asks = start + (part_of % (block // rows)) * rows + tl.arange(0, rows)
                held = asks < stop
                asking = tl.load(text_of + asks, mask=held, other=-2)
                log = tl.load(logs + head.to(tl.int64) * tokens + asks, mask=held, other=0.0)
                queries = load_rows(q + head.to(tl.int64) * q_head, q_row, asks, held, width, columns)
                do = load_rows(dout + head.to(tl.int64) * d_head, d_row, asks, held, width, columns)
                same, behind = text[:, None] == asking[None, :], asks[None, :] - token[:, None]
                scores = tl.dot(keys, tl.trans(queries), input_precision=precision) * (scale * LOG2E)
                if biased:
                    scores = add_bias(scores, bias + head * (2 * reach + 1), behind, reach)
                p = tl.where(seen(same, behind, window, causal, windowed), tl.exp2(scores - log[None, :]), 0.0)
                of_values += tl.dot(p.to(do.dtype), do, input_precision=precision)
                dp = tl.dot(values, tl.trans(do), input_precision=precision)
                ds = p * (dp - tl.sum(p * dp, 0)[None, :])
                if biased:
                    sums += ds
                ds = (ds * scale).to(queries.dtype)
                of_keys += tl.dot(ds, queries, input_precision=precision)
                of_query = tl.dot(tl.trans(ds), keys, input_precision=precision)
                store_rows(dq + head * columns, heads * columns, of_query, asks, held, width, columns)
            store_rows(dk + key_head * columns, key_heads * columns, of_keys, token, inside, width, columns)
            store_rows(dv + key_head * columns, key_heads * columns, of_values, token, inside, width, columns)
    if biased:
        place = tl.arange(0, block)[:, None] + tl.arange(0, rows)[None, :] * block
        tl.store(pairs + tl.program_id(0).to(tl.int64) * rows * block + place, sums)
