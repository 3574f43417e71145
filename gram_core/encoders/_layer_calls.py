"""How a model's layers are called on packed texts: compiled, in the compute dtype, and once more backwards."""

import warnings
from collections.abc import Callable, Iterator, MutableSet, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gram_core.encoders._layer_compilation import VARIANTS, TooManyVariants, compiled, compiling
from gram_core.encoders._rotary_tables import RotaryTables, whole
from gram_core.encoders._weights import bypassed


def stacks(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, lowest first: what its lists of modules of one kind hold, but for lists within those."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len({type(part) for part in module}) == 1:
            inside = {id(part) for layer in found for part in layer.modules()}
            if id(module) not in inside and next(module.parameters(), None) is not None:
                found += list(module)
    return list({id(layer): layer for layer in found}.values())


class UncompiledLayers(UserWarning):
    """Layers of a model are not compiled, unlike others of it."""


class LayerCalls:
    """The layers' calls within `installed`.

    dtype: of the hidden states between layers. again: whether each keeps its input only, and runs again backwards;
    those that the model checkpoints do in any case. running: what the model runs within, entered anew for that.
    tables: what is known of those that they rotate by. uncompiled: layers of more kinds than are compiled, which are
    added as they are met, and told once.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        dtype: torch.dtype,
        compiles: bool,
        again: bool,
        running: Callable[[], AbstractContextManager[None]],
        tables: RotaryTables,
        uncompiled: MutableSet[nn.Module],
    ):
        self._layers, self._dtype, self._compiles, self._again, self._running = layers, dtype, compiles, again, running
        self._tables, self._uncompiled = tables, uncompiled

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, calls of the layers go this way."""
        checkpointed: list[Any] = [layer for layer in self._layers if getattr(layer, "gradient_checkpointing", False)]
        runs_again = {id(layer) for layer in self._layers if self._again} | {id(layer) for layer in checkpointed}
        own = [(vars(layer), vars(layer).get("_compiled_call_impl")) for layer in self._layers]
        for layer in self._layers:
            call = partial(self._call, layer)
            again = id(layer) in runs_again and layer.training
            vars(layer)["_compiled_call_impl"] = partial(self._checkpointed, call) if again else call
        for layer in checkpointed:
            layer.gradient_checkpointing = False
        try:
            with compiling() if self._compiles else nullcontext():
                yield
        finally:
            for attributes, compiled_by_others in own:
                del attributes["_compiled_call_impl"]
                if compiled_by_others is not None:
                    attributes["_compiled_call_impl"] = compiled_by_others
            for layer in checkpointed:
                layer.gradient_checkpointing = True

    def _call(self, layer: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        hooked = bypassed(layer) is not None
        call = layer._call_impl if hooked else layer.forward
        if not self._compiles or hooked or layer in self._uncompiled:
            return _run(layer, call, self._dtype, hidden, args, kwargs)
        try:
            # the lowest layer's input as that of others, so that one compilation serves all
            rows, halved = hidden.to(self._dtype), self._tables.halved(layer, kwargs)
            if _learns_first(layer, rows):
                rows = rows.detach().requires_grad_()
            return _compiled()(layer, call, self._dtype, rows, args, halved)
        except TooManyVariants:
            self._leave_uncompiled(layer)
            return _run(layer, call, self._dtype, hidden, args, kwargs)

    def _leave_uncompiled(self, layer: nn.Module) -> None:
        if not self._uncompiled:
            warnings.warn(
                f"layers are compiled in up to {VARIANTS} kinds (by windows, scales, what learns in them), and this "
                f"model has more: from its layer {self._layers.index(layer)} on, further kinds run uncompiled: slower, "
                "and the same values",
                UncompiledLayers,
                stacklevel=2,
            )
        self._uncompiled.add(layer)

    def _checkpointed(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return checkpoint(
            call, *args, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), self._running()), **kwargs,
        )  # fmt: skip


def _learns_first(layer: nn.Module, hidden: Tensor) -> bool:
    """Whether nothing below this layer learns."""
    asks = torch.is_grad_enabled() and not hidden.requires_grad
    return asks and any(parameter.requires_grad for parameter in layer.parameters())


def _run(layer: nn.Module, call: Any, dtype: torch.dtype, hidden: Tensor, args: Any, kwargs: Any) -> Any:
    """A layer on hidden states [1, T, d], which it takes and gives in `dtype`."""
    outputs = call(hidden.to(dtype), *args, **whole(kwargs))
    if isinstance(outputs, Tensor):
        return outputs.to(dtype)
    first, *others = outputs
    return (first.to(dtype), *others)


@cache
def _compiled() -> Callable[..., Any]:
    return compiled(_run)
