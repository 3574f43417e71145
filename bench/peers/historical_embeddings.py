"""Historical embeddings: a sampled part of a batch's items gets a gradient, the rest its encodings of earlier steps.

Per step: a share of the unique items, drawn at random, is encoded with a graph and its history written over; for the
others the history is used, however old, without a gradient. An item without a history is encoded like the sampled.
Sources: GNNAutoScale (Fey et al., ICML 2021), whose nodes outside the mini-batch are read from a history; cross-batch
memory (Wang et al., CVPR 2020), whose loss reads encodings of earlier batches. U unique items.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from bench.peers._keeping import PartlyFresh
from bench.peers._settings import HistoricalEmbeddingsSettings


class HistoricalEmbeddings(PartlyFresh):
    """A fresh gradient for some, history for the rest. The history lies on the device."""

    name: ClassVar[str] = "historical_embeddings"

    Settings = HistoricalEmbeddingsSettings

    def _fresh(self, items: Tensor) -> Tensor:
        return self._sampled(len(items)) | ~self._kept.holds(items)

    def _sampled(self, count: int) -> Tensor:
        """A random part of `count` items, bool [count]."""
        sampled = torch.zeros(count, dtype=torch.bool)
        sampled[torch.randperm(count, generator=self._generator)[: math.ceil(self.settings.fresh_share * count)]] = True
        return sampled
