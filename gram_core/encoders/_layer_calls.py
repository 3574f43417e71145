"""How a model's layers are called on packed texts: compiled, in the compute dtype, and once more backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
import torch._functorch.config
import torch.fx.experimental._config
from torch import Tensor, nn
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.utils.checkpoint import CheckpointPolicy, checkpoint

VARIANTS = 64
"""Kinds of layers (windows, norms left out, gradients or none) that one compiled function is made for at most."""


def stacks(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, lowest first: what its lists of modules of one kind hold, but for lists within those."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len({type(part) for part in module}) == 1:
            inside = {id(part) for layer in found for part in layer.modules()}
            if id(module) not in inside and next(module.parameters(), None) is not None:
                found += list(module)
    return list({id(layer): layer for layer in found}.values())


class LayerCalls:
    """The layers' calls within `installed`.

    dtype: of the hidden states between layers. again: whether each keeps its input only, and runs again backwards;
    those that the model checkpoints do in any case. running: what the model runs within, entered anew for that.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        dtype: torch.dtype,
        compiles: bool,
        again: bool,
        running: Callable[[], AbstractContextManager[None]],
    ):
        self._layers, self._dtype, self._compiles, self._again, self._running = layers, dtype, compiles, again, running

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, calls of the layers go this way."""
        checkpointed: list[Any] = [layer for layer in self._layers if getattr(layer, "gradient_checkpointing", False)]
        runs_again = {id(layer) for layer in self._layers if self._again} | {id(layer) for layer in checkpointed}
        for layer in self._layers:
            call = partial(self._call, layer)
            again = id(layer) in runs_again and layer.training
            vars(layer)["_compiled_call_impl"] = partial(self._checkpointed, call) if again else call
        for layer in checkpointed:
            layer.gradient_checkpointing = False
        try:
            with _compiling() if self._compiles else nullcontext():
                yield
        finally:
            for layer in self._layers:
                del vars(layer)["_compiled_call_impl"]
            for layer in checkpointed:
                layer.gradient_checkpointing = True

    def _call(self, layer: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
        run = _compiled() if self._compiles and not hooked else _run
        return run(layer, layer._call_impl if hooked else layer.forward, self._dtype, hidden, args, kwargs)

    def _checkpointed(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return checkpoint(
            call, *args, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), self._running()), **kwargs,
        )  # fmt: skip


def _run(layer: nn.Module, call: Any, dtype: torch.dtype, hidden: Tensor, args: Any, kwargs: Any) -> Any:
    """A layer on hidden states [1, T, d], which it takes and gives in `dtype`."""
    outputs = call(hidden.to(dtype), *args, **kwargs)
    if isinstance(outputs, Tensor):
        return outputs.to(dtype)
    first, *others = outputs
    return (first.to(dtype), *others)


@cache
def _compiled() -> Callable[..., Any]:
    """`_run`, compiled for any number of tokens and every layer of one kind at once."""
    return torch.compile(_run, dynamic=True, options={"joint_custom_post_pass": _SavedAttention()})


@contextmanager
def _compiling() -> Iterator[None]:
    """Within, a layer keeps for its backward pass what products and attention make, and computes the rest again: what
    is norms, rotations and gates of these is fused with what reads it, and half of what would be kept. Layers of one
    kind share one compiled function, which may not silently give up on the ninth variant."""
    keeps_little = {
        "ban_recompute_used_far_apart": False,
        "ban_recompute_long_fusible_chains": False,
        "ban_recompute_materialized_backward": False,
        "ban_recompute_not_in_allowlist": False,
    }
    variants = torch._dynamo.config.patch(recompile_limit=VARIANTS, fail_on_recompile_limit_hit=True)
    shapes: Any = torch.fx.experimental._config
    sizes = shapes.patch(use_duck_shape=False)  # equal ones at first need not stay equal
    with torch._functorch.config.patch(keeps_little), variants, sizes:
        yield


class _SavedAttention(CustomGraphPass):
    """Has the partition of a layer into forward and backward keep what attention makes: it does not know our operator
    for one that takes long."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Marks it in a layer's joint graph."""
        for node in graph.nodes:
            if node.target is torch.ops.gram_core.text_attention.default:
                node.meta["recompute"] = CheckpointPolicy.MUST_SAVE

    def uuid(self) -> str:
        """For torch's cache of compiled graphs: what this does."""
        return "gram_core keeps what attention makes, 2"
