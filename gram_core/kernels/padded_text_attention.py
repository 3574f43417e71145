"""`text_attention` on a CPU: lots of texts of like length, padded to the longest, are one call of torch's.

Only attention sees the padding. The backward is written out, since an operator's inside records nothing to
differentiate. T tokens packed, A query heads, K heads of keys and values, A = K g, D head width, R the bias's reach,
m texts of a lot, L its longest.
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
"""Pairs of query and key that the backward holds at once, four times over."""


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
        together = max(1, PAIRS // (q.shape[1] * lot_rows.shape[1] ** 2))
        for rows, real in zip(lot_rows.split(together), lot_real.split(together), strict=True):
            found = _gradients(dout[rows], q[rows], k[rows], v[rows], real, rules, bias)
            for whole, gradient in zip(packed, found[:3], strict=True):
                whole[rows[real]] = gradient[real].to(whole.dtype)
            if dbias is not None:
                dbias += by_distance(found[3], dbias.shape[1])
    dq, dk, dv = packed
    return dq, dk, dv, dbias


def _attend(parts: list[Tensor], real: Tensor, rules: Rules, bias: Tensor | None) -> Tensor:
    """q [m, A, L, D], k and v [m, K, L, D] -> [m, A, L, D], in float32 at least where there is a bias."""
    q, k, v = parts
    grouped = q.shape[1] // k.shape[1]
    if grouped > 1:
        k, v = k.repeat_interleave(grouped, 1), v.repeat_interleave(grouped, 1)
    longest = real.shape[1]
    windowed = rules.window is not None and rules.window < longest - 1
    if bias is None and rules.causal and not windowed:  # padding lies behind every query that is read
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=rules.scale)
    mask = None if bool(real.all()) and not (rules.causal or windowed) else _mask(real, rules)
    if bias is not None:
        dtype = torch.promote_types(q.dtype, _wide(bias.dtype))
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        added = of_pairs(bias.to(dtype), longest)
        mask = added if mask is None else added.masked_fill(~mask, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=rules.scale)


def _gradients(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, real: Tensor, rules: Rules, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Those of q [m, L, A, D], k and v [m, L, K, D] and of the scores, summed over texts [A, L, L].

    Heads that read the same keys stand one below the other, as the rows of one matrix.
    """
    texts, longest, heads, width = q.shape
    shape, below = (texts, k.shape[2], -1, width), (texts, k.shape[2], -1, longest, longest)
    dtype = _wide(q.dtype)
    rows = [part.to(dtype).transpose(1, 2).reshape(shape) for part in (q, torch.where(real[..., None, None], dout, 0))]
    q, dout = rows  # [m, K, g L, D]
    k, v = k.to(dtype).transpose(1, 2), v.to(dtype).transpose(1, 2)  # [m, K, L, D]
    scores = (q @ k.mT).mul_(rules.scale).view(below)
    if bias is not None:
        scores += of_pairs(bias.to(dtype), longest).view(1, *below[1:2], -1, longest, longest)
    scores.masked_fill_(~_mask(real, rules)[:, None], -torch.inf)
    p = scores.softmax(-1)
    dp = (dout @ v.mT).view(below)
    dscores = dp.sub_((p * dp).sum(-1, keepdim=True)).mul_(p)
    flat, p = dscores.view(*q.shape[:3], longest), p.view(*q.shape[:3], longest)
    dq, dk, dv = (flat @ k).mul_(rules.scale), (flat.mT @ q).mul_(rules.scale), p.mT @ dout
    dq = dq.view(texts, heads, longest, width)
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2), dscores.sum(0).view(heads, longest, longest)


def _mask(real: Tensor, rules: Rules) -> Tensor:
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
