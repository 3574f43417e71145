"""Reading items of any kind: item ids -> rows of a source -> what an encoder takes, on the host.

n items of a call, I items of a source.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Batch = Any
"""What a module takes: a mapping as keyword arguments, a tuple or list as positional ones, anything else alone."""

Collate = Callable[[list[Any]], Batch]
"""A list of n rows -> a batch."""


class IndexedItems:
    """A catalogue for `Training` of whatever ids can index, pictures for one; texts have `ItemTable`.

    items: see `Deduplicated`; only the rows of a call are read, so that it may be memory-mapped.
    tokens: what the encoder computes for an item, padding left out: a number for all of them, or int64 [I]. Budgets in
    tokens count by it, and results tell it.
    collate: a list of n rows -> what the encoder takes; None stacks rows of one shape.
    """

    def __init__(self, items: Any, tokens: int | Tensor, collate: Collate | None = None):
        if not len(items):
            raise ValueError("a catalogue needs one item at least")
        lengths = torch.as_tensor(tokens, dtype=torch.int64)
        self.lengths = lengths.repeat(number_of(items)) if lengths.dim() == 0 else lengths
        if self.lengths.shape != (number_of(items),) or int(self.lengths.min()) < 1:
            raise ValueError(f"tokens must be 1 at least, for each of {number_of(items)} items")
        self._items, self._collate = items, collate

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, items: Tensor) -> Batch:
        """What the encoder takes of `items` [n], in that order."""
        return rows_of(self._items, items, self._collate)


def has_fields(items: Any) -> bool:
    """Whether a source is a mapping from names to sources."""
    return isinstance(items, Mapping) and all(isinstance(name, str) for name in items)


def number_of(items: Any) -> int:
    """I."""
    return number_of(next(iter(items.values()))) if has_fields(items) else len(items)


def rows_of(items: Any, ids: Tensor, collate: Collate | None) -> Batch:
    """The rows at `ids` [n] as a batch."""
    if collate is not None:
        return collate([_row(items, row) for row in ids.tolist()])
    if has_fields(items):
        return {name: rows_of(part, ids, None) for name, part in items.items()}
    if isinstance(items, Tensor):
        return items[ids.to(items.device)]
    if isinstance(items, np.ndarray):
        return torch.from_numpy(np.asarray(items[ids.cpu().numpy()]))
    rows = [_row(items, row) for row in ids.tolist()]
    try:
        return _stacked(rows)
    except (RuntimeError, TypeError, ValueError) as error:
        error.add_note("rows of one shape are stacked; give collate= for others, such as texts to be padded.")
        raise


def _stacked(rows: list[Any]) -> Batch:
    """Rows of one shape as a batch: tensors, arrays, lists of numbers, pictures, or mappings and tuples of them."""
    first = rows[0]
    if isinstance(first, Mapping):
        return {name: _stacked([row[name] for row in rows]) for name in first}
    if isinstance(first, tuple):
        return tuple(_stacked(list(parts)) for parts in zip(*rows, strict=True))
    return torch.stack(rows) if isinstance(first, Tensor) else torch.from_numpy(np.stack([np.asarray(r) for r in rows]))


def _row(items: Any, row: int) -> Any:
    return {name: part[row] for name, part in items.items()} if has_fields(items) else items[row]


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: moved(part, device) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(moved(part, device) for part in batch)
    return batch
