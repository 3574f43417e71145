"""Historical embeddings: a sampled part of a batch's items gets a gradient, the rest its encodings of earlier steps.

Per step: a share of the unique items, drawn at random, is encoded with a graph and its history written over; for the
others the history stands in, however old, without a gradient. An item without a history is encoded like the sampled.
Sources: GNNAutoScale (Fey et al., ICML 2021), whose nodes outside the mini-batch are read from a history; cross-batch
memory (Wang et al., CVPR 2020), whose loss reads encodings of earlier batches. U unique items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.peers._handicaps import FEW_STEPS, UNCAPTURED
from bench.peers._kept_encodings import KeptEncodings
from bench.peers._partly_fresh import partly_fresh_step
from bench.peers._passes import Passes
from gram_core.batch import Batch, unique_items
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


class HistoricalEmbeddings:
    """A fresh gradient for some, history for the rest. The history lies on the device."""

    name: ClassVar[str] = "historical_embeddings"
    exactness: ClassVar[Exactness] = "stale"
    handicaps: ClassVar[tuple[str, ...]] = (UNCAPTURED, FEW_STEPS)

    @dataclass(frozen=True)
    class Settings:
        """fresh_share: part of a batch's unique items that is encoded anew, rounded up."""

        fresh_share: float = 0.25

        def __post_init__(self) -> None:
            if not 0 < self.fresh_share <= 1:
                raise ValueError("fresh_share must be above 0 and at most 1")

    def __init__(self, training: Training, settings: Settings | None = None):
        self.training = training
        self.settings = settings or self.Settings()
        self._kept = KeptEncodings(len(training.table), training.device)
        self._generator = torch.Generator().manual_seed(torch.initial_seed())
        self._passes = Passes()
        self._t = 0

    @property
    def interval(self) -> int:
        """Every step updates the encoder."""
        return 1

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        with phase("host"):
            selection = unique_items(batch)
            fresh = self._sampled(len(selection.items)) | ~self._kept.holds(selection.items)
            self._passes.note(batch, selection.items[fresh])
        loss = partly_fresh_step(self.training, self._kept, selection, fresh, batch, self._t)
        self._t += 1
        return loss

    def _sampled(self, count: int) -> Tensor:
        """A random part of `count` items, bool [count]."""
        sampled = torch.zeros(count, dtype=torch.bool)
        sampled[torch.randperm(count, generator=self._generator)[: math.ceil(self.settings.fresh_share * count)]] = True
        return sampled

    def finish(self) -> None:
        """Nothing is pending between steps."""

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items that were encoded when these batches were stepped on."""
        return self._passes.of(batches)

    def state(self) -> dict[str, Tensor]:
        """The history, the step, and the generator that draws the sample."""
        return self._kept.state() | {"t": torch.tensor(self._t), "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on where `state` was taken."""
        self._kept.restore(state)
        self._t = int(state["t"])
        self._generator.set_state(state["generator"].cpu())
