"""An encoder over a source of items: item ids -> rows of the source -> a batch on the module's device -> encodings.

n items of a call, d width. What may be a source: see `Deduplicated`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gram_core.encoders.pooling import Pooling, pooling_module
from gram_core.item_sources import Batch, Collate, has_fields, moved, rows_of


class Deduplicated(nn.Module):
    """`module` as an encoder of item ids, for `encode`, which gives it each id once.

    module: an nn.Module or any callable; its parameters are this module's.
    items: what ids index.
        - a tensor or array [I, ...], memory-mapped ones too: the rows of a call are read, and nothing else;
        - a mapping from names to such sources: the batch is a mapping with the same names (several modalities);
        - a mapping from item ids, a list, a data set: rows one by one, by `items[id]`: tensors, arrays, lists of
          numbers, pictures, mappings or tuples of them.
    collate: a list of n rows -> batch, on the host (for token ids: the tokenizer's `pad`); a mapping from names gives
        rows that are mappings. None stacks rows of one shape.
    prepare: batch -> batch, on the module's device (uint8 pixels to normalised floats, say).
    pool: what makes [n, d] of the module's output. A function of output and batch, or "mean" or "cls" over
        `last_hidden_state`, with the batch's `attention_mask` where it has one. None takes a tensor as it is.
    device: where batches go; None takes that of the module's parameters, or that of the ids where it has none.
    """

    module: Any

    def __init__(
        self,
        module: Callable[..., Any],
        items: Any,
        *,
        collate: Collate | None = None,
        prepare: Callable[[Batch], Batch] | None = None,
        pool: Callable[[Any, Batch], Tensor] | Pooling | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        if not len(items):
            raise ValueError("Deduplicated needs a source with one item at least")
        if pool == "attention":
            raise ValueError('pool "attention" has weights: make it part of the module')
        self.module = module
        self._source = _Shared(items)
        self._collate, self._prepare = collate, prepare
        self._pool = _pooled(pooling_module(pool, 0)) if isinstance(pool, str) else pool
        self._device = None if device is None else torch.device(device)

    def with_module(self, module: Callable[..., Any]) -> Deduplicated:
        """The same with another module."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.module = module
        return other

    def forward(self, ids: Tensor) -> Tensor:
        """Encodings [n, d] of the items `ids` int64 [n], in their order. No ids give [0, d], by one item encoded."""
        if not len(ids):
            return self._encoded(_any_id(self._source.items), ids.device)[:0]
        return self._encoded(ids, ids.device)

    def _encoded(self, ids: Any, device: torch.device) -> Tensor:
        batch = rows_of(self._source.items, ids, self._collate)
        batch = moved(batch, self._device or self._module_device() or device)
        if self._prepare is not None:
            batch = self._prepare(batch)
        if isinstance(batch, Mapping):
            output = self.module(**batch)
        elif isinstance(batch, tuple | list):
            output = self.module(*batch)
        else:
            output = self.module(batch)
        found = output if self._pool is None else self._pool(output, batch)
        if not isinstance(found, Tensor):
            raise TypeError(
                f"the module returned {type(found).__name__} where encodings [n, d] are needed: give Deduplicated pool="
            )
        return found

    def _module_device(self) -> torch.device | None:
        return next((p.device for p in self.parameters()), None)


class _Shared:
    """Items that a copy of the encoder (averaged weights, a teacher) has in common with it."""

    def __init__(self, items: Any):
        self.items = items

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def _pooled(pooling: nn.Module) -> Callable[[Any, Batch], Tensor]:
    def pool(output: Any, batch: Batch) -> Tensor:
        states = output.last_hidden_state
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        everything = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        found: Tensor = pooling(states, everything if mask is None else mask.bool())
        return found

    return pool


def _any_id(items: Any) -> Tensor:
    """The id of some item, [1]."""
    keyed = isinstance(items, Mapping) and not has_fields(items)
    return torch.tensor([int(next(iter(items)))] if keyed else [0])
