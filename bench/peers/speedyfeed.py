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

import math
from typing import ClassVar

import torch
from torch import Tensor

from bench.peers._keeping import NEVER, PartlyFresh
from bench.peers._settings import SpeedyFeedSettings
from gram_core.training import Training


class SpeedyFeed(PartlyFresh):
    """Encodings of the last steps are used again, more often as training goes on. The cache lies on the device."""

    name: ClassVar[str] = "speedyfeed"

    Settings = SpeedyFeedSettings

    def __init__(self, training: Training, settings: SpeedyFeedSettings | None = None):
        super().__init__(training, settings)
        self._t = self.settings.first_step

    @property
    def reuse_probability(self) -> float:
        """Of an encoding that is young enough, at the coming step."""
        return 1.0 - math.exp(-self.settings.beta * self._t)

    def _fresh(self, items: Tensor) -> Tensor:
        return ~self._reused(items)

    def _reused(self, items: Tensor) -> Tensor:
        """Which of the items [U] are read from the cache, bool [U]."""
        written = self._kept.written_at(items)
        young = (written != NEVER) & (self._t - written <= self.settings.gamma)
        return young & (torch.rand(len(items), generator=self._generator) < self.reuse_probability)
