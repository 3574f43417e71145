"""Residual sum and layer norm in one pass, forwards and backwards.

T rows, d width. Statistics and sums are float32 (float64 of float64), whatever the rows are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gram_core.kernels.column_sums import sum_dtype


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Layer norm of x + residual, both [T, d] -> rows [T, d] and statistics [2, T]: mean and inverse deviation.

    x holds x + residual afterwards, which the backward reads.
    """
    if x.is_cuda:
        from gram_core.kernels import _layer_norm_triton

        return _layer_norm_triton.add_norm(x, residual, weight, bias, eps)
    x += residual
    wide = x.to(sum_dtype(x))
    variance, mean = torch.var_mean(wide, 1, correction=0)
    rows = F.layer_norm(wide, x.shape[1:], weight.to(wide.dtype), bias.to(wide.dtype), eps)
    return rows.to(x.dtype), torch.stack([mean, torch.rsqrt(variance + eps)])


def add_norm_backward(
    gradient: Tensor, also: Tensor | None, x: Tensor, statistics: Tensor, weight: Tensor, partials: Tensor
) -> Tensor:
    """The gradient [T, d] of x and residual alike, in the place of `gradient`.

    also [T, d]: a second reader's gradient, added to the first. partials [P, 3 d] get what summed over P is the
    gradient of weight, of bias, and of a bias added to x.
    """
    if gradient.is_cuda:
        from gram_core.kernels import _layer_norm_triton

        return _layer_norm_triton.add_norm_backward(gradient, also, x, statistics, weight, partials)
    mean, inverse = statistics[:, :, None]
    wide = gradient.to(mean.dtype)
    if also is not None:
        wide = wide + also
    normed = (x - mean) * inverse
    inner = wide * weight
    moved = (inner - inner.mean(1, keepdim=True) - normed * (inner * normed).mean(1, keepdim=True)) * inverse
    partials.zero_()
    partials[0] = torch.cat([(wide * normed).sum(0), wide.sum(0), moved.sum(0)])
    return gradient.copy_(moved)
