"""A pass launched kernel by kernel in anyone's autograd, which goes backwards once, as a replayed one does.

What torch compiles refuses to go backwards where a caller keeps the graph (`retain_graph`), for any reason. So the
encoder has a graph of its own within one operator of the caller's. n texts, d width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gram_core.batch import Texts
from gram_core.encoders.packing_encoder import PackingEncoder

ONCE = (
    "an accelerated encoder back-propagates a forward pass once: add losses up, or use `encoded`, within which "
    "backward may be called again and again"
)


def launched(encoder: PackingEncoder, texts: Texts, learning: Sequence[Tensor], again: bool) -> Tensor:
    """Encodings [n, d]. learning: the parameters that learn; again: keeps nothing, and encodes again backwards."""
    if not (torch.is_grad_enabled() and learning):
        return encoder(texts)
    found: Tensor = _Launched.apply(encoder, texts, again, *learning)
    return found


def passed_back(made: Tensor, learning: Sequence[Tensor], gradient: Tensor) -> Sequence[Tensor | None]:
    """The gradients of `learning`, None for what the encodings `made` do not hang on: a pooler that nobody reads."""
    if not made.requires_grad:
        return [None] * len(learning)
    return torch.autograd.grad(made, learning, gradient, allow_unused=True)


class _Launched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, encoder: PackingEncoder, texts: Texts, again: bool, *learning: Tensor) -> Tensor:
        kind = learning[0].device.type
        ctx.pass_, ctx.learning = (encoder, texts), learning
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        if again:
            ctx.made = None
            return encoder(texts)
        with torch.enable_grad():
            ctx.made = encoder(texts)
        return ctx.made.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        if ctx.pass_ is None:
            raise RuntimeError(ONCE)
        (encoder, texts), made = ctx.pass_, ctx.made
        ctx.pass_ = ctx.made = None
        if made is None:
            with torch.enable_grad(), torch.autocast(*ctx.autocast):
                made = encoder(texts)
        return None, None, None, *passed_back(made, ctx.learning, gradient)
