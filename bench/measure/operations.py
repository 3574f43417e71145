"""Floating-point operations of what is run within, by shapes: matrix products, attention, recurrent layers.

torch's own counter, with what it leaves out (attention's kernel for processors, recurrent layers), less what is no work
of the model's: the scores that an attention kernel computes again in its backward pass, and outer products, as of
rotary positions, which sum nothing. Causal and windowed attention count in full, as is the custom for models of texts.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten


class Operations(TorchDispatchMode):
    """Counts operations of torch while it is entered; total: multiplications and additions so far."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts what has a formula, or what it is made of."""
        given = kwargs or {}
        formula: Any = _FORMULAS.get(func._overloadpacket) or flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **given)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **given)
        if formula is not None:
            self.total += int(formula(*args, **given, out_val=out))
        return out


def _product(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return 0 if a.shape[-1] == 1 else 2 * a.numel() * b.shape[-1]


def _product_onto(_: Tensor, a: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    return _product(a, b)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    *others, width = query.shape
    return 2 * prod(others) * key.shape[-2] * (width + value.shape[-1])


def _attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> int:
    return 2 * _attention(query, key, value)


def _recurrent(rows: Tensor, *parts: Any, **_: Any) -> int:
    """Each row of the input [T, B, i] or [T, i], through every matrix of the layers."""
    given = list(parts[0]) if isinstance(parts[0], list | tuple) else list(parts[:4])
    return 2 * prod(rows.shape[:-1]) * sum(weight.numel() for weight in given if weight.dim() == 2)


def _recurrent_backward(rows: Tensor, *parts: Any, **_: Any) -> int:
    return 2 * _recurrent(rows, *parts)


_FORMULAS = {
    _ATEN.bmm: _product,
    _ATEN.baddbmm: _product_onto,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _ATEN._scaled_dot_product_flash_attention_backward: _attention_backward,
    _ATEN._scaled_dot_product_efficient_attention_backward: _attention_backward,
    _ATEN._scaled_dot_product_cudnn_attention_backward: _attention_backward,
    _ATEN.mkldnn_rnn_layer: _recurrent,
    _ATEN.mkldnn_rnn_layer_backward: _recurrent_backward,
    _ATEN._cudnn_rnn: _recurrent,
    _ATEN._cudnn_rnn_backward: _recurrent_backward,
}
