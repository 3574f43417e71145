"""How peft's linears with plain LoRA are called on packed texts: as one operator (`kernels.adapted_linear`)."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gram_core.encoders._class_calls import calling
from gram_core.encoders._weights import bypassed
from gram_core.kernels.adapted_linear import adapted_linear

NAME = "_gram_core_adapter"
"""The attribute that holds the name of a module's adapter within `calling_once`."""


def plain(model: nn.Module) -> list[tuple[Any, str]]:
    """The model's linears with one adapter that is no more than LoRA beside a frozen weight, and its name."""
    lora: Any = sys.modules.get("peft.tuners.lora.layer")
    if lora is None:
        return []
    found = [(module, _plain_adapter(module)) for module in model.modules() if type(module) is lora.Linear]
    return [(module, name) for module, name in found if name is not None]


@contextmanager
def calling_once(adapted: Sequence[tuple[Any, str]]) -> Iterator[None]:
    """Within, each of `adapted` is one operator.

    Their class is told, not they: a compiled layer would be bound to one module's own function.
    """
    if not adapted:
        yield
        return
    with calling(type(adapted[0][0]), NAME, dict(adapted), _forward_of):
        yield


@cache
def _forward_of(own: Any) -> Callable[..., Tensor]:
    """One function for each class, lest a compiled layer meet another one in every pass."""

    def forward(module: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = getattr(module, NAME, None)
        return own(module, x, *args, **kwargs) if name is None or x.dim() < 2 else _forward(module, name, x)

    return forward


def _plain_adapter(module: Any) -> str | None:
    """The name of its only active adapter, where peft's own call is `adapted_linear`."""
    base, active = module.base_layer, [name for name in module.active_adapters if name in module.lora_A]
    if module.disable_adapters or module.merged or len(active) != 1:
        return None
    name: str = active[0]
    parts = (module, base, module.lora_A[name], module.lora_B[name], module.lora_dropout[name])
    dropout = module.lora_dropout[name]
    drops = not isinstance(dropout, nn.Identity) and (type(dropout) is not nn.Dropout or dropout.p > 0)
    linears = all(type(part) is nn.Linear for part in (base, *parts[2:4]))
    variant = getattr(module, "lora_variant", {}).get(name) or getattr(module, "use_dora", {}).get(name)
    if not linears or drops or variant or getattr(module, "fan_in_fan_out", False):
        return None
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return None
    if any(bypassed(part) is not None or "forward" in vars(part) for part in parts):
        return None
    biases = (module.lora_A[name].bias, module.lora_B[name].bias)
    return name if all(bias is None for bias in biases) else None


def _forward(module: Any, name: str, x: Tensor) -> Tensor:
    """x [..., in] -> [..., out], in the dtype that its products would be computed in.

    Autocast is left on: of tensors of one dtype it casts none, and torch keeps no compiled graph that switches it off.
    """
    base, down, up = module.base_layer, module.lora_A[name].weight, module.lora_B[name].weight
    kind = x.device.type
    casts = torch.is_autocast_enabled(kind) and x.dtype != torch.float64  # which autocast leaves as it is
    dtype = torch.get_autocast_dtype(kind) if casts else x.dtype
    weight, bias = base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype)
    rows = x.to(dtype).flatten(0, -2)
    scaled = (up * module.scaling[name]).to(dtype)
    return adapted_linear(rows, weight, bias, down.to(dtype), scaled).unflatten(0, x.shape[:-1])
