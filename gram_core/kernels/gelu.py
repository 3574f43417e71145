"""GELU as BERT has it (with erf), its backward summing the gradient of the bias before it in the same pass.

T rows, f width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu(x: Tensor) -> Tensor:
    """x Phi(x) of x [T, f]."""
    if x.is_cuda:
        from gram_core.kernels import _gelu_triton

        return _gelu_triton.gelu(x)
    return F.gelu(x)


def gelu_backward(gradient: Tensor, x: Tensor, partials: Tensor) -> Tensor:
    """The gradient of x [T, f], in the place of `gradient`; partials [P, f] get what summed over P is its sum."""
    if gradient.is_cuda:
        from gram_core.kernels import _gelu_triton

        return _gelu_triton.gelu_backward(gradient, x, partials)
    torch.ops.aten.gelu_backward.grad_input(gradient, x, grad_input=gradient)
    torch.sum(gradient, 0, dtype=partials.dtype, out=partials[0])
    return gradient
