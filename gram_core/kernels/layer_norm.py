"""Residual sum and layer norm in one pass, forwards and backwards.

T rows, d width. Statistics and sums are float32 (float64 of float64), whatever the rows are.
"""

import torch
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
    rows, mean, inverse = torch.native_layer_norm(wide, x.shape[1:], weight.to(wide.dtype), bias.to(wide.dtype), eps)
    return rows.to(x.dtype), torch.stack([mean[:, 0], inverse[:, 0]])


def add_norm_backward(
    gradient: Tensor, also: Tensor | None, x: Tensor, statistics: Tensor, weight: Tensor, partials: Tensor
) -> Tensor:
    """The gradient [T, d] of x and residual alike; on a GPU in the place of `gradient`.

    also [T, d]: a second reader's gradient, added to the first. partials [P, 3 d] get what summed over P is the
    gradient of weight, of bias, and of a bias added to x.
    """
    if gradient.is_cuda:
        from gram_core.kernels import _layer_norm_triton

        return _layer_norm_triton.add_norm_backward(gradient, also, x, statistics, weight, partials)
    wide = gradient.to(statistics.dtype)
    if also is not None:
        wide += also  # `gradient` itself, where that is wide already
    moved, of_weight, of_bias = norm_backward(wide, x.to(wide.dtype), statistics, weight)
    partials[0] = torch.cat([of_weight, of_bias, moved.sum(0)])
    return moved.to(gradient.dtype)


def norm_backward(gradient: Tensor, x: Tensor, statistics: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """On a CPU: the gradients of x [T, d], of weight and of bias; all in the dtype of the statistics [2, T]."""
    mean, inverse = statistics[:, :, None]
    scale = weight.to(gradient.dtype)
    moved, *of_vectors = torch.ops.aten.native_layer_norm_backward(
        gradient, x, x.shape[1:], mean, inverse, scale, scale, (True, True, True)
    )
    return moved, *of_vectors
