"""Calling an encoder chunk by chunk, some chunks without keeping their graph: these run again in the backward pass.

Recomputation is `torch.utils.checkpoint` (non-reentrant): it supports `retain_graph`, autocast that is entered or left
between the two passes, and DistributedDataParallel around the caller. Three things that it lacks are here:
- random states of all devices: it saves those of its arguments' devices, and ids are often on the host;
- an error where the encoder's weights or mode changed in between: the gradient would be another model's;
- an encoder that is itself wrapped in DistributedDataParallel, whose forward pass may run only once per backward pass.
n items of a chunk, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from gram_core.acceleration import Accelerated
from gram_core.chunking import RandomState, chunk_bounds
from gram_core.deduplicated import Deduplicated

ItemEncoder = Callable[[Tensor], Tensor]
"""Item ids int64 [n] -> encodings [n, d]."""


def encode_chunks(encoder: ItemEncoder, items: Tensor, chunk: int | None, keep: int | None) -> Tensor:
    """Encodings [U, d] of distinct `items` [U].

    chunk: the most items the encoder sees at once. keep: the most items whose graph is kept until the backward pass;
    None keeps all. Both only bound memory. The last chunks are kept, for the backward pass begins with them and so has
    freed their graphs when it recomputes the others.
    """
    if keep is not None and keep < 0:
        raise ValueError(f"keep must be at least 0, not {keep}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    bounds = chunk_bounds(torch.ones(len(items), dtype=torch.int64), chunk) or [(0, 0)]
    first, later = _calls(encoder)
    known = first is not later or isinstance(encoder, Accelerated)
    whole = len(bounds) == 1 and (keep is None or keep >= len(items))
    parts: list[Tensor] = []
    for start, stop in bounds:
        chunk_items, call = items[start:stop], later if parts else first
        with nullcontext() if whole or parts else _no_wrapped_call(known):
            if keep is None or len(items) - start <= keep or not torch.is_grad_enabled():
                parts.append(_called(call, chunk_items))
            else:
                parts.append(_recomputed(call, later, chunk_items))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def module_of(encoder: ItemEncoder) -> nn.Module | None:
    """The module whose weights encode, where the encoder is one; None for any other callable."""
    module = encoder.module if isinstance(encoder, Deduplicated) else encoder
    return module if isinstance(module, nn.Module) else None


@dataclass(frozen=True)
class AutocastState:
    """What autocast does at a moment, to be done again at another."""

    states: tuple[tuple[str, bool, torch.dtype], ...]

    @classmethod
    def now(cls) -> AutocastState:
        """The present state."""
        kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        return cls(tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds))

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within, autocast does as it did."""
        with ExitStack() as stack:
            for kind, enabled, dtype in self.states:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            yield


class _Redrawing(AbstractContextManager[None]):
    """Within, random draws are those that followed its making; can be entered again and again."""

    def __init__(self, encoder: ItemEncoder):
        devices = [torch.device("cpu")]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        self._states = [RandomState.now(device) for device in devices]
        self._module = module_of(encoder)
        self._condition = self._conditions()
        self._entered: list[ExitStack] = []

    def _conditions(self) -> tuple[list[int], list[bool]]:
        """Counts of in-place changes of the weights, and whether each part is training."""
        if self._module is None:
            return [], []
        return [p._version for p in self._module.parameters()], [part.training for part in self._module.modules()]

    def __enter__(self) -> None:
        for before, now, what in zip(self._condition, self._conditions(), ("weights", "training mode"), strict=True):
            if before != now:
                raise RuntimeError(
                    f"the encoder's {what} changed between encode and the backward pass, which encodes again: "
                    "call backward before the optimizer's step, train() or eval()"
                )
        stack = ExitStack()
        for state in self._states:
            stack.enter_context(state.replayed())
        self._entered.append(stack)

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)


def _recomputed(call: ItemEncoder, again: ItemEncoder, items: Tensor) -> Tensor:
    """Encodings [n, d] by `call`, whose graph `again` makes in the backward pass; by itself, if it is `Accelerated`."""
    if isinstance(call, Accelerated):
        return _called(call.recomputed, items)
    redrawing, calls = _Redrawing(again), iter([call])

    def run(items: Tensor) -> Tensor:
        return _called(next(calls, again), items)

    found: Tensor = checkpoint(
        run, items, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (nullcontext(), redrawing)
    )
    return found


def _called(encoder: ItemEncoder, items: Tensor) -> Tensor:
    """Encodings [n, d], or an error that says what the encoder gave in their place."""
    try:
        found = encoder(items)
    except Exception as error:
        if not len(items):
            error.add_note("The encoder was called without any item, because every id is -1: it must return [0, d].")
        raise
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(items):
        given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"the encoder must return a tensor [n, d] for n = {len(items)} item ids, not {given}")
    return found


def _calls(encoder: ItemEncoder) -> tuple[ItemEncoder, ItemEncoder]:
    """What encodes the first chunk, and what encodes every other and encodes again.

    DistributedDataParallel sums gradients once they are complete whichever call they come from; its own forward pass
    only makes ready for that. So it runs once, and the rest goes to the module inside.
    """
    if isinstance(encoder, DistributedDataParallel):
        return encoder, encoder.module
    if isinstance(encoder, Deduplicated) and isinstance(encoder.module, DistributedDataParallel):
        return encoder, encoder.with_module(encoder.module.module)
    return encoder, encoder


@contextmanager
def _no_wrapped_call(known: bool) -> Iterator[None]:
    """Within, an encoder that calls a DistributedDataParallel unseen is an error, unless it is `known` here."""

    def refuse(module: nn.Module, args: Any) -> None:
        if isinstance(module, DistributedDataParallel):
            raise RuntimeError(
                "the encoder calls a DistributedDataParallel inside, once a chunk: give encode the wrapped module or "
                "Deduplicated(wrapped, items), or call encode inside the wrapped module, or leave out chunk and keep"
            )

    if known or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        yield  # without processes there is no such module, and compiled ones would warn of the hook
        return
    handle = nn.modules.module.register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()
