"""`text_attention` over short texts: several whole texts share a tile, so no tile is mostly padding.

One program handles one tile and, forwards, one query head, backwards one head of keys with all query heads that read
it: their shares of dk and dv are summed on chip, without atomics. Queries go through in chunks of `rows`, so that wide
heads fit; each chunk meets all keys of its texts at once. The forward keeps each query's log-sum of weights.
`width` is the power of two that holds the `columns` of a head; scores are in powers of two.

Where queries and keys are to be rotated, and normed before, each half of a head is a tile of its own: near and far
columns are turned into each other in the registers that they were loaded to, and a product of heads is the sum of those
of the halves. Backwards both are prepared again, and a rotation's gradient is turned back before it is stored. That of
a norm takes another pass: within, it took 500 microseconds at 34,760 tokens of Qwen3, for want of registers.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_rows(head, row_stride, token, inside, width: tl.constexpr, columns: tl.constexpr, again: tl.constexpr = False):
    """Rows of one head, to which `head` points; zeros outside."""
    column = tl.arange(0, width)[None, :]
    mask = inside[:, None] if columns == width else inside[:, None] & (column < columns)
    place = head + token[:, None].to(tl.int64) * row_stride + column
    return tl.load(place, mask=mask, other=0.0, eviction_policy="evict_last" if again else "")


@triton.jit
def store_rows(head, row_stride, values, token, inside, width: tl.constexpr, columns: tl.constexpr):
    column = tl.arange(0, width)[None, :]
    mask = inside[:, None] if columns == width else inside[:, None] & (column < columns)
    place = head + token[:, None].to(tl.int64) * row_stride + column
    tl.store(place, values.to(head.dtype.element_ty), mask=mask)


@triton.jit
def load_tables(cos, sin, turn_row, token, inside, half: tl.constexpr, columns: tl.constexpr, again: tl.constexpr):
    """again: whether they are read once more later, by which a compiler would else hold them until then."""
    return (
        load_rows(cos, turn_row, token, inside, half, columns, again).to(tl.float32),
        load_rows(sin, turn_row, token, inside, half, columns, again).to(tl.float32),
    )


@triton.jit
def load_weights(weight, half: tl.constexpr, columns: tl.constexpr):
    """Of a norm, for the columns of the near and of the far half, [1, half]."""
    column = tl.arange(0, half)[None, :]
    near = tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)
    return near, tl.load(weight + columns + column, mask=column < columns, other=0.0).to(tl.float32)


@triton.jit
def to_unit_size(near, far, eps, columns: tl.constexpr):
    """Each row divided by the root of its mean square, and by what it was divided, inverted; columns: of a half."""
    inverse = tl.rsqrt((tl.sum(near * near, 1) + tl.sum(far * far, 1)) / (2 * columns) + eps)[:, None]
    return near * inverse, far * inverse, inverse


@triton.jit
def load_head(
    head, row_stride, cos, sin, turn_row, weight, eps, token, inside,
    width: tl.constexpr, columns: tl.constexpr, rotated: tl.constexpr, normed: tl.constexpr,
):  # fmt: skip
    """Rows of one head [tokens, width], twice; rotated: its near and its far half, turned, [tokens, width / 2].

    normed: divided by the root of their mean square before, and multiplied by the weight.
    """
    if rotated:
        half: tl.constexpr = width // 2
        real: tl.constexpr = columns // 2
        near = load_rows(head, row_stride, token, inside, half, real)
        far = load_rows(head + real, row_stride, token, inside, half, real)
        x, y = near.to(tl.float32), far.to(tl.float32)
        if normed:
            x, y, _ = to_unit_size(x, y, eps, real)
            of_near, of_far = load_weights(weight, half, real)
            x, y = x * of_near, y * of_far
        c, s = load_tables(cos, sin, turn_row, token, inside, half, real, not normed)
        near = (x * c - y * s).to(near.dtype)
        far = (y * c + x * s).to(far.dtype)
    else:
        near = load_rows(head, row_stride, token, inside, width, columns)
        far = near
    return near, far


@triton.jit
def store_halves(
    place, row_stride, near, far, cos, sin, turn_row, token, inside,
    half: tl.constexpr, columns: tl.constexpr, turns: tl.constexpr,
):  # fmt: skip
    """The gradient of a head's rows, given that of its turned halves in float32; or that as it is.

    columns: of a half.
    """
    if turns:
        c, s = load_tables(cos, sin, turn_row, token, inside, half, columns, False)
        near, far = near * c + far * s, far * c - near * s
    store_rows(place, row_stride, near, token, inside, half, columns)
    store_rows(place + columns, row_stride, far, token, inside, half, columns)


@triton.jit
def product(near, far, other_near, other_far, rotated: tl.constexpr, precision: tl.constexpr):
    """Of each row of one head with each of another, as `load_head` has them."""
    whole = tl.dot(near, tl.trans(other_near), input_precision=precision)
    if rotated:
        whole = tl.dot(far, tl.trans(other_far), whole, input_precision=precision)
    return whole


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
    q, k, v, out, logs, groups, text_of, bias, cos, sin, q_weight, k_weight, q_eps, k_eps,
    scale, window, reach, heads, tokens,
    q_row, q_head, k_row, k_head, v_row, v_head, turn_row,
    grouped: tl.constexpr, columns: tl.constexpr, width: tl.constexpr, block: tl.constexpr, rows: tl.constexpr,
    causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr,
    rotated: tl.constexpr, normed: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    head, group = tl.program_id(0) % heads, tl.program_id(0) // heads
    start, stop = tl.load(groups + group), tl.load(groups + group + 1)
    if start < stop:
        key_head = (head // grouped).to(tl.int64)
        token = start + tl.arange(0, block)
        inside = token < stop
        text = tl.load(text_of + token, mask=inside, other=-1)
        near_keys, far_keys = load_head(
            k + key_head * k_head, k_row, cos, sin, turn_row, k_weight, k_eps, token, inside,
            width, columns, rotated, normed,
        )  # fmt: skip
        values = load_rows(v + key_head * v_head, v_row, token, inside, width, columns)
        for first in tl.range(0, block, rows, disable_licm=rows < block):
            asks = start + first + tl.arange(0, rows)
            held = asks < stop
            asking = tl.load(text_of + asks, mask=held, other=-1)
            near, far = load_head(
                q + head.to(tl.int64) * q_head, q_row, cos, sin, turn_row, q_weight, q_eps, asks, held,
                width, columns, rotated, normed,
            )  # fmt: skip
            same, behind = asking[:, None] == text[None, :], asks[:, None] - token[None, :]
            scores = product(near, far, near_keys, far_keys, rotated, precision) * (scale * LOG2E)
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
    q, k, v, dout, logs, dq, dk, dv, pairs, groups, text_of, bias, cos, sin, q_weight, k_weight, q_eps, k_eps,
    scale, window, reach, heads, tokens, tiles,
    q_row, q_head, k_row, k_head, v_row, v_head, d_row, d_head, g_row, turn_row,
    grouped: tl.constexpr, columns: tl.constexpr, width: tl.constexpr, block: tl.constexpr, rows: tl.constexpr,
    repeats: tl.constexpr, causal: tl.constexpr, windowed: tl.constexpr, biased: tl.constexpr,
    rotated: tl.constexpr, normed: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """pairs [tiles / repeats, A, block, block]: the gradient of scores, added up over `repeats` tiles, for a bias.

    By key, then query, as are all pairs here: so weights need not be turned over. With a bias each query head has keys
    of its own, and rows is block. dq, dk, dv: head by head, row by row in strides of g_row.
    Where there are norms, dq and dk are of what was prepared.
    """
    key_heads = heads // grouped
    key_head, part = tl.program_id(0) % key_heads, tl.program_id(0) // key_heads
    part_width: tl.constexpr = width // 2 if rotated else width
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
            near_keys, far_keys = load_head(
                k + key_head.to(tl.int64) * k_head, k_row, cos, sin, turn_row, k_weight, k_eps, token, inside,
                width, columns, rotated, normed,
            )  # fmt: skip
            values = load_rows(v + key_head.to(tl.int64) * v_head, v_row, token, inside, width, columns)
            of_near = tl.zeros((block, part_width), dtype=tl.float32)
            if rotated:
                of_far = tl.zeros((block, part_width), dtype=tl.float32)
            of_values = tl.zeros((block, width), dtype=tl.float32)
            for part_of in tl.range(0, grouped * (block // rows), disable_licm=grouped * (block // rows) > 1):
                head = key_head * grouped + part_of // (block // rows)
                asks = start + (part_of % (block // rows)) * rows + tl.arange(0, rows)
                held = asks < stop
                asking = tl.load(text_of + asks, mask=held, other=-2)
                log = tl.load(logs + head.to(tl.int64) * tokens + asks, mask=held, other=0.0)
                near, far = load_head(
                    q + head.to(tl.int64) * q_head, q_row, cos, sin, turn_row, q_weight, q_eps, asks, held,
                    width, columns, rotated, normed,
                )  # fmt: skip
                do = load_rows(dout + head.to(tl.int64) * d_head, d_row, asks, held, width, columns)
                same, behind = text[:, None] == asking[None, :], asks[None, :] - token[:, None]
                scores = product(near_keys, far_keys, near, far, rotated, precision) * (scale * LOG2E)
                if biased:
                    scores = add_bias(scores, bias + head * (2 * reach + 1), behind, reach)
                p = tl.where(seen(same, behind, window, causal, windowed), tl.exp2(scores - log[None, :]), 0.0)
                of_values += tl.dot(p.to(do.dtype), do, input_precision=precision)
                dp = tl.dot(values, tl.trans(do), input_precision=precision)
                ds = p * (dp - tl.sum(p * dp, 0)[None, :])
                if biased:
                    sums += ds
                ds = (ds * scale).to(near.dtype)
                of_near += tl.dot(ds, near, input_precision=precision)
                of_query = tl.dot(tl.trans(ds), near_keys, input_precision=precision)
                if rotated:
                    of_far += tl.dot(ds, far, input_precision=precision)
                    of_other = tl.dot(tl.trans(ds), far_keys, input_precision=precision)
                    store_halves(
                        dq + head * columns, g_row, of_query, of_other, cos, sin, turn_row, asks, held,
                        part_width, columns // 2, not normed,
                    )  # fmt: skip
                else:
                    store_rows(dq + head * columns, g_row, of_query, asks, held, width, columns)
            store_rows(dv + key_head * columns, g_row, of_values, token, inside, width, columns)
            if rotated:
                store_halves(
                    dk + key_head * columns, g_row, of_near, of_far, cos, sin, turn_row, token, inside,
                    part_width, columns // 2, not normed,
                )  # fmt: skip
            else:
                store_rows(dk + key_head * columns, g_row, of_near, token, inside, width, columns)
    if biased:
        place = tl.arange(0, block)[:, None] + tl.arange(0, rows)[None, :] * block
        tl.store(pairs + tl.program_id(0).to(tl.int64) * rows * block + place, sums)
