"""SpeedyFeed's training pipeline (Xiao et al. 2022): deduplication, and encodings reused from earlier steps.

Per step t:
1. the batch's unique items; each that was encoded at most gamma steps ago is, with probability 1 - exp(-beta t),
   read from the cache, without a gradient: the further training has come, the less an encoder moves;
2. the others are encoded, with a graph, and written to the cache;
3. one step of encoder and CF module.
Source: "Training Large-Scale News Recommenders with Pretrained Language Models in the Loop", KDD 2022. Of the paper,
this is the pipeline; its news encoder (BusLM) and its user model are models of their own and left out, since every
method here trains the same one. U unique items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.peers._handicaps import FEW_STEPS, UNCAPTURED
from bench.peers._kept_encodings import NEVER, KeptEncodings
from bench.peers._partly_fresh import partly_fresh_step
from bench.peers._passes import Passes
from gram_core.batch import Batch, unique_items
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


class SpeedyFeed:
    """Encodings of the last steps are used again, more often as training goes on. The cache lies on the device."""

    name: ClassVar[str] = "speedyfeed"
    exactness: ClassVar[Exactness] = "stale"
    handicaps: ClassVar[tuple[str, ...]] = (UNCAPTURED, FEW_STEPS)

    @dataclass(frozen=True)
    class Settings:
        """beta: how fast the probability of reuse grows with the steps.

        gamma: the most steps that an encoding may be old when it is reused.
        first_step: t of the first step; a short measurement takes it from the middle of a training.
        """

        beta: float = 0.002
        gamma: int = 20
        first_step: int = 0

        def __post_init__(self) -> None:
            if self.beta < 0 or self.gamma < 0 or self.first_step < 0:
                raise ValueError("beta, gamma and first_step must be at least 0")

    def __init__(self, training: Training, settings: Settings | None = None):
        self.training = training
        self.settings = settings or self.Settings()
        self._kept = KeptEncodings(len(training.table), training.device)
        self._generator = torch.Generator().manual_seed(torch.initial_seed())
        self._passes = Passes()
        self._t = self.settings.first_step

    @property
    def interval(self) -> int:
        """Every step updates the encoder."""
        return 1

    @property
    def reuse_probability(self) -> float:
        """Of an encoding that is young enough, at the coming step."""
        return 1.0 - math.exp(-self.settings.beta * self._t)

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        with phase("host"):
            selection = unique_items(batch)
            fresh = ~self._reused(selection.items)
            self._passes.note(batch, selection.items[fresh])
        loss = partly_fresh_step(self.training, self._kept, selection, fresh, batch, self._t)
        self._t += 1
        return loss

    def _reused(self, items: Tensor) -> Tensor:
        """Which of the items [U] are read from the cache, bool [U]."""
        written = self._kept.written_at(items)
        young = (written != NEVER) & (self._t - written <= self.settings.gamma)
        return young & (torch.rand(len(items), generator=self._generator) < self.reuse_probability)

    def finish(self) -> None:
        """Nothing is pending between steps."""

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items that were encoded when these batches were stepped on."""
        return self._passes.of(batches)

    def state(self) -> dict[str, Tensor]:
        """The cache, the step, and the generator that draws who is reused."""
        return self._kept.state() | {"t": torch.tensor(self._t), "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on where `state` was taken."""
        self._kept.restore(state)
        self._t = int(state["t"])
        self._generator.set_state(state["generator"].cpu())
