"""Gradient caching (Gao et al. 2021) over every item slot: memory of one chunk, at the price of a second forward pass.

Phases of a step:
1. every chunk runs forward without a graph; its random state is noted;
2. the CF module's loss and its gradient at the encodings, which is cached;
3. chunk by chunk: forward again, random state replayed, with a graph, and backward from the cached gradient.
Source: "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021.
n encodings, d width.
"""

from typing import ClassVar

import torch
from torch import Tensor

from bench.methods import UNCAPTURED
from bench.peers._settings import GradientCacheSettings
from gram_core.batch import Batch, every_slot
from gram_core.chunking import ChunkedEncoding, GraphBudget
from gram_core.methods._base import MethodBase
from gram_core.phases import phase


class GradientCache(MethodBase):
    """As published: no item is encoded for two slots at once."""

    name: ClassVar[str] = "gradient_cache"
    handicaps = (UNCAPTURED,)

    Settings = GradientCacheSettings

    select = staticmethod(every_slot)

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        with phase("host"):
            selection = self.select(batch)
        nothing_kept = GraphBudget(self.training.device, kept_tokens=0)
        encoding = ChunkedEncoding(self.training, selection.items, self.settings.chunk_tokens, nothing_kept)
        leaf = encoding.encodings.requires_grad_()
        with phase("cf"):
            loss = self.training.loss(self.training.gather(selection.slot_rows)(leaf), batch)
            loss.backward()
        with phase("ce_backward"):
            encoding.backward(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
        self.training.optimization.step()
        return loss.detach()
