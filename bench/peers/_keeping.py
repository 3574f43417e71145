"""Methods whose steps read what earlier ones kept, and what of a batch passed the encoder when it was stepped on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from bench.peers._kept_rows import KeptEncodings, KeptStates
from gram_core.batch import Batch
from gram_core.methods._base import MethodBase
from gram_core.training import Training


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


class Keeping(MethodBase):
    """A method that keeps encodings, or states, of the items that it has met."""

    _kept: KeptEncodings | KeptStates

    def __init__(self, training: Training, settings: Any = None):
        super().__init__(training, settings)
        self._passes = Passes()

    @property
    def kept_bytes(self) -> int:
        """What is kept takes so much, on the device or on the host."""
        return self._kept.nbytes

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items that were encoded when these batches were stepped on."""
        return self._passes.of(batches)

    def state(self) -> dict[str, Tensor]:
        """What is kept: computed again, in other company, it would differ by rounding."""
        return self._kept.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on where `state` was taken."""
        self._kept.restore(state)
