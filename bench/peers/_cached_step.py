"""A step on encodings of which some are fresh, with a graph, and the others come from earlier steps, without one.

U unique items of the batch, F of them fresh, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.methods import FEW_STEPS, UNCAPTURED
from bench.peers._keeping import Keeping
from bench.peers._kept_rows import KeptEncodings
from gram_core.batch import PADDING_SLOT, Batch, Selection, unique_items
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


class PartlyFresh(Keeping, ABC):
    """A method that encodes some of a batch's unique items and reads the others from what it kept; a file of its own
    says which (`_fresh`)."""

    exactness: ClassVar[Exactness] = "stale"
    handicaps = (UNCAPTURED, FEW_STEPS)
    _kept: KeptEncodings

    def __init__(self, training: Training, settings: Any = None):
        super().__init__(training, settings)
        self._kept = KeptEncodings(len(training.table), training.device)
        self._generator = torch.Generator().manual_seed(torch.initial_seed())
        self._t = 0

    @abstractmethod
    def _fresh(self, items: Tensor) -> Tensor:
        """Which of `items` [U] are encoded at this step, bool [U]: all that nothing is kept of, at least."""

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        with phase("host"):
            selection = unique_items(batch)
            fresh = self._fresh(selection.items)
            self._passes.note(batch, selection.items[fresh])
        loss = partly_fresh_step(self.training, self._kept, selection, fresh, batch, self._t)
        self._t += 1
        return loss

    def state(self) -> dict[str, Tensor]:
        """What is kept, the step, and the generator that chooses."""
        return super().state() | {"t": torch.tensor(self._t), "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on where `state` was taken."""
        super().restore(state)
        self._t = int(state["t"])
        self._generator.set_state(state["generator"].cpu())


def partly_fresh_step(
    training: Training, kept: KeptEncodings, selection: Selection, fresh: Tensor, batch: Batch, step: int
) -> Tensor:
    """One optimizer step of encoder and CF module; returns the loss, detached.

    fresh: which of the selection's items are encoded now, bool [U]; `kept` holds the others, and the fresh ones
    afterwards, as of this step. What is read from `kept` gets no gradient.
    """
    with phase("host"):
        now, earlier = selection.items[fresh], selection.items[~fresh]
        place = torch.empty_like(selection.items)
        place[fresh] = torch.arange(len(now))
        place[~fresh] = torch.arange(len(now), len(now) + len(earlier))
        slot_rows = place[selection.slot_rows].masked_fill(selection.slot_rows < 0, PADDING_SLOT)
    parts = ([training.encode(now)] if len(now) else []) + ([kept.read(earlier)] if len(earlier) else [])
    loss = training.joint_step(torch.cat(parts), slot_rows, batch)
    if len(now):
        kept.write(now, parts[0], step)
    return loss
