"""What passed the encoder when a batch was stepped on, for methods whose memory decides it."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import Tensor

from gram_core.batch import Batch


class Passes:
    """The items that each batch sent through the encoder, for as long as somebody holds the batch."""

    def __init__(self) -> None:
        self._items: WeakKeyDictionary[Batch, Tensor] = WeakKeyDictionary()

    def note(self, batch: Batch, items: Tensor) -> None:
        """`items` [n] have passed the encoder for this batch."""
        self._items[batch] = items

    def of(self, batches: Sequence[Batch]) -> list[Tensor]:
        """One tensor per batch; raises ValueError for one that was never stepped on: what it would need depends on
        the steps before it."""
        missing = sum(batch not in self._items for batch in batches)
        if missing:
            raise ValueError(f"{missing} of {len(batches)} batches have not been stepped on; step first, then ask")
        return [self._items[batch] for batch in batches]
