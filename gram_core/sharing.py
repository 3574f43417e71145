"""Which of a batch's items this process encodes, and how the others' encodings come to it.

A process that trains alone encodes all of them. Where several train together (`gram_core.distributed`), each encodes
its share, and `spread` and `collect` are where encodings and their gradients cross from one to the other.

m items encoded here, n rows that slots read, d width, B users, S slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from gram_core.batch import Selection

if TYPE_CHECKING:
    from gram_core.chunking import ChunkedEncoding, KeptEncoding


class Share:
    """All of a selection's items: n = m, and nothing crosses."""

    def __init__(self, selection: Selection):
        self.items = selection.items
        """What this process encodes, [m]."""
        self.slot_rows = selection.slot_rows
        """Which of the n rows each slot reads, [B, S]."""

    def spread(self, encodings: Tensor) -> Tensor:
        """Encodings of `items` [m, d] -> the rows that slots read [n, d]; differentiable."""
        return encodings

    def collect(self, gradient: Tensor) -> Tensor:
        """The backward of `spread`: dL/d rows [n, d] -> dL/d encodings of `items` [m, d], summed over all readers."""
        return gradient


class SharedEncoding:
    """Rows that slots read [n, d], and their backward, of which `own` encoded this process's share."""

    def __init__(self, own: ChunkedEncoding | KeptEncoding, share: Share):
        self._own, self._share = own, share
        self.encodings = share.spread(own.encodings)
        """[n, d], detached."""

    def backward(self, gradient: Tensor) -> None:
        """Adds to the encoder's `.grad` what dL/d rows [n, d] makes of it."""
        self._own.backward(self._share.collect(gradient))
