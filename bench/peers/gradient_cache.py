"""Gradient caching (Gao et al. 2021) over every item slot: memory of one chunk, at the price of a second forward pass.

Phases of a step:
1. every chunk runs forward without a graph; its random state is noted;
2. the CF module's loss and its gradient at the encodings, which is cached;
3. chunk by chunk: forward again, random state replayed, with a graph, and backward from the cached gradient.
Source: "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021.
n encodings, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.limitations import Handicap
from bench.peers._limitations import UNCAPTURED
from gram_core.batch import Batch, Selection, every_slot
from gram_core.chunking import ChunkedEncoding, GraphBudget
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


class GradientCache:
    """As published: no item is encoded for two slots at once."""

    name: ClassVar[str] = "gradient_cache"
    exactness: ClassVar[Exactness] = "exact"
    handicaps: ClassVar[tuple[Handicap, ...]] = (UNCAPTURED,)

    @dataclass(frozen=True)
    class Settings:
        """chunk_tokens: the most tokens the encoder sees at once; None is all at once. Only bounds memory."""

        chunk_tokens: int | None = 32768

    def __init__(self, training: Training, settings: Settings | None = None):
        self.training = training
        self.settings = settings or self.Settings()

    @property
    def interval(self) -> int:
        """Every step updates the encoder."""
        return 1

    @staticmethod
    def select(batch: Batch) -> Selection:
        """Every slot gets an encoding of its own."""
        return every_slot(batch)

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

    def finish(self) -> None:
        """Nothing is pending between steps."""

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the encoder in these steps, one tensor per step; a second forward not counted."""
        return [self.select(batch).items for batch in batches]
