"""`text_attention` on a CPU: lots of texts of like length, padded to the longest, are one call of torch's.

Only attention sees the padding. An operator's inside records nothing to differentiate: the backward is a call of its
own and, with a bias, for which torch's has no gradient, written out. T tokens packed, A query heads, K heads of keys
and values, A = K g, D head width, R the bias's reach, m texts of a lot, L its longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gram_core.kernels.padded_attention import _lots
from gram_core.kernels.relative_bias import by_distance, of_pairs

if TYPE_CHECKING:
    from gram_core.kernels.text_attention import Rules

PAIRS = 1 << 21
"""Pairs of query and key that a bias's backward holds at once, four times over."""


def padded_text_attention(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, rules: Rules, bias: Tensor | None
) -> Tensor:
    """q [T, A, D], k and v [T, K, D] -> [T, A, D]; rows of no text are zeros."""
    out = q.new_zeros(q.shape)
    for rows, real in _lots(offsets):
        heads = _attend([part[rows].transpose(1, 2) for part in (q, k, v)], real, rules, bias)
        out[rows[real]] = heads.transpose(1, 2)[real].to(out.dtype)
    return out


def padded_text_attention_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, rules: Rules, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of queries, keys, values and, in float32 or wider, the bias; the forward runs once more."""
    packed = [part.new_zeros(part.shape) for part in (q, k, v)]
    dbias = None if bias is None else torch.zeros_like(bias, dtype=_wide(bias.dtype))
    for lot_rows, lot_real in _lots(offsets):
        together = len(lot_rows) if bias is None else max(1, PAIRS // (q.shape[1] * lot_rows.shape[1] ** 2))
        for rows, real in zip(lot_rows.split(together), lot_real.split(together), strict=True):
            asked = torch.where(real[..., None, None], dout[rows], 0).transpose(1, 2)
            heads = [part[rows].transpose(1, 2) for part in (q, k, v)]
            if bias is None or dbias is None:
                gradients = _fused_gradients(asked, heads, real, rules)
            else:
                gradients, dpairs = _gradients(asked, heads, real, rules, bias)
                dbias += by_distance(dpairs, dbias.shape[1])
            for whole, gradient in zip(packed, gradients, strict=True):
                whole[rows[real]] = gradient.transpose(1, 2)[real].to(whole.dtype)
    dq, dk, dv = packed
    return dq, dk, dv, dbias


def _attend(parts: list[Tensor], real: Tensor, rules: Rules, bias: Tensor | None) -> Tensor:
    """q [m, A, L, D], k and v [m, K, L, D] -> [m, A, L, D], in float32 at least where there is a bias."""
    q, k, v = parts
    k, v = _for_each_query_head(k, q), _for_each_query_head(v, q)
    mask, causal = _mask(real, rules)
    if bias is not None:
        dtype = torch.promote_types(q.dtype, _wide(bias.dtype))
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        mask, causal = of_pairs(bias.to(dtype), real.shape[1]).masked_fill(~_seen(real, rules), -torch.inf), False
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=rules.scale)


def _fused_gradients(dout: Tensor, parts: list[Tensor], real: Tensor, rules: Rules) -> tuple[Tensor, ...]:
    """Those of q [m, A, L, D], k and v [m, K, L, D], by the operators behind torch's own attention."""
    q, k, v = parts
    mask, causal = _mask(real, rules)
    if mask is not None:
        added = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
        mask = added.expand(-1, -1, real.shape[1], -1)
    heads = (q, _for_each_query_head(k, q), _for_each_query_head(v, q))
    out, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *heads, 0.0, causal, attn_mask=mask, scale=rules.scale
    )
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        dout, *heads, out, logs, 0.0, causal, attn_mask=mask, scale=rules.scale
    )
    if k.shape != q.shape:
        dk, dv = (gradient.unflatten(1, (k.shape[1], -1)).sum(2) for gradient in (dk, dv))
    return dq, dk, dv


def _gradients(
    dout: Tensor, parts: list[Tensor], real: Tensor, rules: Rules, bias: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Those of q [m, A, L, D], k and v [m, K, L, D] and of the scores, summed over texts [A, L, L].

    Heads that read the same keys stand one below the other, as the rows of one matrix.
    """
    q, k, v = parts
    texts, heads, longest, width = q.shape
    shape, below = (texts, k.shape[1], -1, width), (texts, k.shape[1], -1, longest, longest)
    dtype = _wide(q.dtype)
    q, dout = q.to(dtype).reshape(shape), dout.to(dtype).reshape(shape)  # [m, K, g L, D]
    k, v = k.to(dtype), v.to(dtype)
    scores = (q @ k.mT).mul_(rules.scale).view(below)
    scores += of_pairs(bias.to(dtype), longest).view(1, k.shape[1], -1, longest, longest)
    scores.masked_fill_(~_seen(real, rules)[:, None], -torch.inf)
    p = scores.softmax(-1)
    dp = (dout @ v.mT).view(below)
    dscores = dp.sub_((p * dp).sum(-1, keepdim=True)).mul_(p)
    flat, p = dscores.view(*q.shape[:3], longest), p.view(*q.shape[:3], longest)
    dq, dk, dv = (flat @ k).mul_(rules.scale), (flat.mT @ q).mul_(rules.scale), p.mT @ dout
    return (dq.view(texts, heads, longest, width), dk, dv), dscores.sum(0).view(heads, longest, longest)


def _for_each_query_head(part: Tensor, q: Tensor) -> Tensor:
    return part if part.shape[1] == q.shape[1] else part.repeat_interleave(q.shape[1] // part.shape[1], 1)


def _mask(real: Tensor, rules: Rules) -> tuple[Tensor | None, bool]:
    """What torch's attention has to be told: which keys are seen, None for all, and whether none behind its query is.

    Padding lies behind every query that is read: where none sees what is behind it, that is all.
    """
    windowed = rules.window is not None and rules.window < real.shape[1] - 1
    if rules.causal and not windowed:
        return None, True
    return (_seen(real, rules) if windowed or not bool(real.all()) else None), False


def _seen(real: Tensor, rules: Rules) -> Tensor:
    """Which keys are seen, [m, 1, L, L] or less; a query of padding sees itself, as one that sees none is no number."""
    if not rules.causal and rules.window is None:
        return real[:, None, None, :]
    place = torch.arange(real.shape[1])
    behind = place[:, None] - place
    near = behind >= 0 if rules.causal else torch.ones_like(behind, dtype=torch.bool)
    if rules.window is not None:
        near &= behind.abs() <= rules.window
    return (real[:, None, None, :] & near) | (behind == 0)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
