"""`text_attention` over texts of any length: tiles of queries walk over the keys that they see, and of keys likewise.

The host says where the texts of each tile begin and end (spans of WALKING tokens); the rules narrow that: a window of
64 in a text of 4,000 tokens walks over few tiles. The forward keeps each query's log-sum of weights, in powers of two.
Nothing is added by atomics: dk and dv of a key head are summed on chip over the query heads that read it.
"""

import triton
import triton.language as tl

from gram_core.kernels._text_tiles_triton import LOG2E, add_bias, load_rows, seen, store_rows
from gram_core.packing import WALKING

TILE = tl.constexpr(WALKING)


@triton.jit
def _walk(
    spans, tile, tokens, window, ahead: tl.constexpr, back: tl.constexpr, windowed: tl.constexpr, block: tl.constexpr
):
    """Tokens of a tile, and the first one and the one behind the last that any of them meets.

    ahead, back: whether they meet tokens behind and before themselves.
    """
    first, last = tile * block, tl.minimum((tile + 1) * block, tokens)
    start, stop = tl.load(spans + 2 * (first // TILE)), tl.load(spans + 2 * ((last - 1) // TILE) + 1)
    if not back:
        start = tl.maximum(start, first)
    elif windowed:
        start = tl.maximum(start, first - window)
    if not ahead:
        stop = tl.minimum(stop, last)
    elif windowed:
        stop = tl.minimum(stop, last + window)
    token = first + tl.arange(0, block)
    return token, token < tokens, start, stop


@triton.jit(do_not_specialize=["tokens", "window", "reach"])
def forward_kernel(
    q, k, v, out, logs, spans, text_of, bias, scale, window, reach, heads, tokens,
    q_row, q_head, k_row, k_head, v_row, v_head,
    grouped: tl.constexpr, columns: tl.constexpr, width: tl.constexpr, block: tl.constexpr, step: tl.constexpr,
    causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    head, tile = tl.program_id(0) % heads, tl.program_id(0) // heads
    key_head = (head // grouped).to(tl.int64)
    token, inside, start, stop = _walk(spans, tile, tokens, window, not causal, True, windowed, block)
    text = tl.load(text_of + token, mask=inside, other=-1)
    queries = load_rows(q + head.to(tl.int64) * q_head, q_row, token, inside, width, columns)
    highest = tl.full((block,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((block,), dtype=tl.float32)
    mixed = tl.zeros((block, width), dtype=tl.float32)
    for first in range(start, stop, step):
        other = first + tl.arange(0, step)
        held = other < stop
        keys = load_rows(k + key_head * k_head, k_row, other, held, width, columns)
        values = load_rows(v + key_head * v_head, v_row, other, held, width, columns)
        same = text[:, None] == tl.load(text_of + other, mask=held, other=-2)[None, :]
        behind = token[:, None] - other[None, :]
        scores = tl.dot(queries, tl.trans(keys), input_precision=precision) * (scale * LOG2E)
        if biased:
            scores = add_bias(scores, bias + head * (2 * reach + 1), behind, reach)
        scores = tl.where(seen(same, behind, window, causal, windowed), scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # of a query that has met no key of its text yet
        p = tl.exp2(scores - base[:, None])
        faded = tl.exp2(highest - base)
        total = total * faded + tl.sum(p, 1)
        mixed = mixed * faded[:, None] + tl.dot(p.to(values.dtype), values, input_precision=precision)
        highest = higher
    total = tl.where(inside, total, 1.0)
    store_rows(out + head * columns, heads * columns, mixed / total[:, None], token, inside, width, columns)
    tl.store(logs + head.to(tl.int64) * tokens + token, highest + tl.log2(total), mask=inside)


@triton.jit
def _gradients(
    q, k, v, do, log, delta, same, behind, bias, scale, window, reach,
    causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Weights and the gradient of scores, [keys, queries] if q are keys and k queries, v and do likewise."""
    scores = tl.dot(q, tl.trans(k), input_precision=precision) * (scale * LOG2E)
    if biased:
        scores = add_bias(scores, bias, behind, reach)
    p = tl.where(seen(same, behind, window, causal, windowed), tl.exp2(scores - log), 0.0)
    return p, p * (tl.dot(do, tl.trans(v), input_precision=precision) - delta)


@triton.jit(do_not_specialize=["tokens", "window", "reach"])
def queries_kernel(
    q, k, v, dout, out, logs, deltas, dq, spans, text_of, bias, scale, window, reach, heads, tokens,
    q_row, q_head, k_row, k_head, v_row, v_head, d_row, d_head, g_row,
    grouped: tl.constexpr, columns: tl.constexpr, width: tl.constexpr, block: tl.constexpr, step: tl.constexpr,
    causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    head, tile = tl.program_id(0) % heads, tl.program_id(0) // heads
    key_head, of_head = (head // grouped).to(tl.int64), head.to(tl.int64) * tokens
    token, inside, start, stop = _walk(spans, tile, tokens, window, not causal, True, windowed, block)
    text = tl.load(text_of + token, mask=inside, other=-1)
    queries = load_rows(q + head.to(tl.int64) * q_head, q_row, token, inside, width, columns)
    do = load_rows(dout + head.to(tl.int64) * d_head, d_row, token, inside, width, columns)
    o = load_rows(out + head * columns, heads * columns, token, inside, width, columns)
    delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(deltas + of_head + token, delta, mask=inside)
    log = tl.load(logs + of_head + token, mask=inside, other=0.0)
    gradient = tl.zeros((block, width), dtype=tl.float32)
    for first in range(start, stop, step):
        other = first + tl.arange(0, step)
        held = other < stop
        keys = load_rows(k + key_head * k_head, k_row, other, held, width, columns)
        values = load_rows(v + key_head * v_head, v_row, other, held, width, columns)
        same = text[:, None] == tl.load(text_of + other, mask=held, other=-2)[None, :]
        _, ds = _gradients(
            queries, keys, values, do, log[:, None], delta[:, None], same, token[:, None] - other[None, :],
            bias + head * (2 * reach + 1), scale, window, reach, causal, windowed, biased, precision,
        )  # fmt: skip
        gradient += tl.dot(ds.to(keys.dtype), keys, input_precision=precision)
    store_rows(dq + head * columns, g_row, gradient * scale, token, inside, width, columns)


@triton.jit(do_not_specialize=["tokens", "window", "reach"])
def keys_kernel(
    q, k, v, dout, logs, deltas, dk, dv, spans, text_of, bias, scale, window, reach, heads, tokens,
    q_row, q_head, k_row, k_head, v_row, v_head, d_row, d_head, g_row,
    grouped: tl.constexpr, columns: tl.constexpr, width: tl.constexpr, block: tl.constexpr, step: tl.constexpr,
    causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    key_heads = heads // grouped
    key_head, tile = tl.program_id(0) % key_heads, tl.program_id(0) // key_heads
    token, inside, start, stop = _walk(spans, tile, tokens, window, True, not causal, windowed, block)
    text = tl.load(text_of + token, mask=inside, other=-1)
    keys = load_rows(k + key_head.to(tl.int64) * k_head, k_row, token, inside, width, columns)
    values = load_rows(v + key_head.to(tl.int64) * v_head, v_row, token, inside, width, columns)
    of_keys = tl.zeros((block, width), dtype=tl.float32)
    of_values = tl.zeros((block, width), dtype=tl.float32)
    for member in range(0, grouped):
        head = key_head * grouped + member
        of_head = head.to(tl.int64) * tokens
        for first in tl.range(start, stop, step, disable_licm=True):
            other = first + tl.arange(0, step)
            held = other < stop
            queries = load_rows(q + head.to(tl.int64) * q_head, q_row, other, held, width, columns)
            do = load_rows(dout + head.to(tl.int64) * d_head, d_row, other, held, width, columns)
            log = tl.load(logs + of_head + other, mask=held, other=0.0)
            delta = tl.load(deltas + of_head + other, mask=held, other=0.0)
            same = text[:, None] == tl.load(text_of + other, mask=held, other=-2)[None, :]
            p, ds = _gradients(
                keys, queries, do, values, log[None, :], delta[None, :], same, other[None, :] - token[:, None],
                bias + head * (2 * reach + 1), scale, window, reach, causal, windowed, biased, precision,
            )  # fmt: skip
            of_values += tl.dot(p.to(do.dtype), do, input_precision=precision)
            of_keys += tl.dot(ds.to(queries.dtype), queries, input_precision=precision)
    store_rows(dk + key_head * columns, g_row, of_keys * scale, token, inside, width, columns)
    store_rows(dv + key_head * columns, g_row, of_values, token, inside, width, columns)


@triton.jit(do_not_specialize=["tokens", "window", "reach", "near"])
def pairs_kernel(
    q, k, v, dout, logs, deltas, pairs, spans, text_of, bias, scale, window, reach, heads, tokens, near,
    q_row, q_head, k_row, k_head, v_row, v_head, d_row, d_head,
    grouped: tl.constexpr, columns: tl.constexpr, width: tl.constexpr, block: tl.constexpr, repeats: tl.constexpr,
    causal: tl.constexpr, windowed: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """pairs [parts, 2 near + 3, A, block, block]: the gradient of scores, for a bias.

    Added up over `repeats` tiles of queries with the tile of keys that lies 0, 1, ... near tiles before or behind
    each; first and last with all further ones.
    """
    head, rest = tl.program_id(0) % heads, tl.program_id(0) // heads
    slots = 2 * near + 3
    shift, part = rest % slots - near - 1, rest // slots
    key_head, of_head = (head // grouped).to(tl.int64), head.to(tl.int64) * tokens
    total = tl.zeros((block, block), dtype=tl.float32)
    for tile in range(part * repeats, tl.minimum(part * repeats + repeats, tl.cdiv(tokens, block))):
        token, inside, start, stop = _walk(spans, tile, tokens, window, not causal, True, windowed, block)
        begin, end = tl.maximum(tile + shift, start // block), tl.minimum(tile + shift + 1, tl.cdiv(stop, block))
        if shift < -near:
            begin = start // block
        if shift > near:
            end = tl.cdiv(stop, block)
        if begin < end:
            text = tl.load(text_of + token, mask=inside, other=-1)
            queries = load_rows(q + head.to(tl.int64) * q_head, q_row, token, inside, width, columns)
            do = load_rows(dout + head.to(tl.int64) * d_head, d_row, token, inside, width, columns)
            log = tl.load(logs + of_head + token, mask=inside, other=0.0)
            delta = tl.load(deltas + of_head + token, mask=inside, other=0.0)
            for met in range(begin, end):
                other = met * block + tl.arange(0, block)
                held = other < tokens
                keys = load_rows(k + key_head * k_head, k_row, other, held, width, columns)
                values = load_rows(v + key_head * v_head, v_row, other, held, width, columns)
                same = text[:, None] == tl.load(text_of + other, mask=held, other=-2)[None, :]
                _, ds = _gradients(
                    queries, keys, values, do, log[:, None], delta[:, None], same, token[:, None] - other[None, :],
                    bias + head * (2 * reach + 1), scale, window, reach, causal, windowed, True, precision,
                )  # fmt: skip
                total += ds
    place = tl.arange(0, block)[:, None] * block + tl.arange(0, block)[None, :]
    tl.store(pairs + tl.program_id(0).to(tl.int64) * block * block + place, total)
