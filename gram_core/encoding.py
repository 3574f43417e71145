"""Encoding each item once in anyone's training loop: `encode`, and `encoded` for losses that back-propagate themselves.

Both stand where a loop encodes every slot of its batch:

    history = encoder(batch["history"].flatten()).unflatten(0, batch["history"].shape)         # every slot
    history, candidates = encode(encoder, batch["history"], batch["candidates"])               # each item once

Backward, clipping, scaling and stepping stay the caller's. Gradients are those of the loop with every slot encoded,
dropout aside: slots of the same item share one mask.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, overload

import torch
from torch import Tensor

from gram_core.item_slots import ItemSlots
from gram_core.recomputation import ItemEncoder, encode_chunks


@overload
def encode(encoder: ItemEncoder, ids: Tensor, /, *, chunk: int | None = None, keep: int | None = None) -> Tensor: ...
@overload
def encode(
    encoder: ItemEncoder,
    ids: Tensor,
    other: Tensor,
    /,
    *more: Tensor,
    chunk: int | None = None,
    keep: int | None = None,
) -> tuple[Tensor, ...]: ...
def encode(encoder: ItemEncoder, *ids: Tensor, chunk: int | None = None, keep: int | None = None) -> Any:
    """Encodings [*shape, d] for each tensor of ids, where each distinct item of all of them is encoded once.

    encoder: item ids int64 [n] -> encodings [n, d]; any callable, or `Deduplicated(module, items)`.
    ids: integers of any shape; -1 is none and gets zeros. Where all are -1 the encoder is called with no id.
    chunk: the most items the encoder sees at once. keep: the most items whose graph is kept until the backward pass;
    the others are encoded again, with the same random numbers. None is no limit. Both only bound memory.
    Returns one tensor for one tensor of ids, else a tuple; differentiable, on the device of the encoder's output.
    Raises TypeError or ValueError for ids that are none, and for an encoder that doesn't return [n, d].
    """
    slots = ItemSlots.of(ids)
    return _as_given(slots.spread(encode_chunks(encoder, slots.items, chunk, keep)))


@overload
def encoded(
    encoder: ItemEncoder, ids: Tensor, /, *, chunk: int | None = None, keep: int | None = None
) -> AbstractContextManager[Tensor]: ...
@overload
def encoded(
    encoder: ItemEncoder,
    ids: Tensor,
    other: Tensor,
    /,
    *more: Tensor,
    chunk: int | None = None,
    keep: int | None = None,
) -> AbstractContextManager[tuple[Tensor, ...]]: ...
def encoded(
    encoder: ItemEncoder, *ids: Tensor, chunk: int | None = None, keep: int | None = None
) -> AbstractContextManager[Any]:
    """`encode` in two phases: within, encodings are leaves; when it ends, their gradient goes through the encoder.

    For losses that call backward themselves, once or many times (per user, per shard, per negative): each call adds to
    the leaves' `.grad`, and the encoder is back-propagated once. Arguments as those of `encode`.
    Raises RuntimeError where gradients are disabled, and where no gradient arrived when it ends; an exception from
    within passes and back-propagates nothing.
    """
    return _encoded(encoder, ids, chunk, keep)


@contextmanager
def _encoded(encoder: ItemEncoder, ids: tuple[Tensor, ...], chunk: int | None, keep: int | None) -> Iterator[Any]:
    if not torch.is_grad_enabled():
        raise RuntimeError("encoded() back-propagates, and gradients are disabled here: use encode()")
    slots = ItemSlots.of(ids)
    graph = slots.spread(encode_chunks(encoder, slots.items, chunk, keep))
    leaves = tuple(part.detach().requires_grad_() for part in graph)
    yield _as_given(leaves)
    arrived = [(part, leaf.grad) for part, leaf in zip(graph, leaves, strict=True) if leaf.grad is not None]
    if not arrived:
        raise RuntimeError("no gradient arrived at the encodings within encoded(): call backward on the loss there")
    learning = [(part, gradient) for part, gradient in arrived if part.requires_grad]
    if learning:
        torch.autograd.backward([part for part, _ in learning], [gradient for _, gradient in learning])


def _as_given(parts: tuple[Tensor, ...]) -> Any:
    """One tensor for one tensor of ids, else a tuple."""
    return parts[0] if len(parts) == 1 else parts
