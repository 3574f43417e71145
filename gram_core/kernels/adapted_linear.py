"""A linear layer with a low-rank adapter (LoRA, Hu et al. 2021) beside it: y = x W' + b + (x A') B'.

One opaque operator for torch.compile, forwards and backwards. No sum is a pass over memory of its own: either a
product is added to what the one before has written, which costs writing and reading [T, out]; or both are one product
of wider rows, [x, x A'] [W, B]', which costs a copy of x, [T, in], and one of the weight.
T tokens, r rank.
"""

from typing import Any

import torch
from torch import Tensor


def adapted_linear(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
    """x [T, in], weight [out, in], bias [out], down [r, in] and up [out, r], all of one dtype -> [T, out].

    The adapter's scale is a factor of `up`. No gradient comes to `weight` and `bias`, which are frozen: raises
    ValueError where one of them asks for it.
    """
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("the weight beside the adapter learns as well; this is for frozen ones")
    return _adapted_linear(x, weight, bias, down, up)[0]


@torch.library.custom_op("gram_core::adapted_linear", mutates_args=())
def _adapted_linear(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out, and x A' [T, r] for the backward."""
    narrowed = x @ down.t()
    if wider_pays(len(x), weight.shape[1], weight.shape[0], len(down)):
        rows, columns = torch.cat([x, narrowed], 1), torch.cat([weight, up], 1)
        return rows @ columns.t() if bias is None else torch.addmm(bias, rows, columns.t()), narrowed
    out = narrowed @ up.t() if bias is None else torch.addmm(bias, narrowed, up.t())
    return out.addmm_(x, weight.t()), narrowed


def wider_pays(tokens: int, read: int, written: int, rank: int) -> bool:
    """Whether copying `tokens` rows of `read` numbers, and a weight, costs less than writing and reading `written`.

    Rows must begin where a matrix product reads them at full width, every 16 bytes of bf16.
    """
    return (read + rank) % 8 == 0 and tokens * (written - read) > written * read


@_adapted_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], weight.shape[0]), x.new_empty(x.shape[0], down.shape[0])


@torch.library.custom_op("gram_core::adapted_linear_backward", mutates_args=())
def _adapted_linear_backward(
    gradient: Tensor, x: Tensor, narrowed: Tensor, weight: Tensor, down: Tensor, up: Tensor, of_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x (empty unless `of_x`), down and up."""
    gradient = gradient.contiguous()
    of_narrowed = gradient @ up
    if not of_x:
        dx = x.new_empty(0)
    elif wider_pays(len(x), weight.shape[0], weight.shape[1], len(down)):
        dx = torch.cat([gradient, of_narrowed], 1) @ torch.cat([weight, down], 0)
    else:
        dx = (of_narrowed @ down).addmm_(gradient, weight)
    return dx, of_narrowed.t() @ x, gradient.t() @ narrowed


@_adapted_linear_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, narrowed: Tensor, weight: Tensor, down: Tensor, up: Tensor, of_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx = x.new_empty(x.shape if of_x else 0)
    return dx, down.new_empty(down.shape), up.new_empty(up.shape)


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, down, up = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[1], weight, down, up)


def _differentiate(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 5
    dx, ddown, dup = _adapted_linear_backward(gradient, *ctx.saved_tensors, ctx.needs_input_grad[0])
    return dx if ctx.needs_input_grad[0] else None, None, None, ddown, dup


_adapted_linear.register_autograd(_differentiate, setup_context=_keep)
OPERATOR = torch.ops.gram_core.adapted_linear.default
"""As compiled graphs hold it."""
