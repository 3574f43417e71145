"""DKT: a recurrent network over a student's answered items, its state compared with the next item's encoding.

As GRAM uses it for knowledge tracing (Sec. 5.1): item, correctness and position features side by side, a linear layer,
two LSTM layers of width d with dropout 0.2, and an output tied to the items: an encoding is read both where the item
was answered and where its answer is predicted, so its gradient arrives from both sides.
B users, S slots, d width.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gram_core.batch import Batch
from gram_core.response import mean_over_slots, positions, ranks
from gram_core.training import gather_slots


class DKT(nn.Module):
    """Response prediction for encodings of any even width: each slot from the slots before it."""

    name: ClassVar[str] = "dkt"
    task: ClassVar[Literal["ranking", "response"]] = "response"

    def __init__(self, width: int, layers: int = 2, dropout: float = 0.2):
        super().__init__()
        self.responses = nn.Embedding(2, width)
        self.inputs = nn.Linear(3 * width, width)
        self.recurrent = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout)
        self.queries = nn.Linear(width, width)

    def scores(self, encodings: Tensor, batch: Batch) -> Tensor:
        """Logits [B, S] of a right response; at a user's first slot they know the item alone."""
        answered = self.responses((batch.targets > 0.5).long())
        rank = ranks(batch.mask)
        features = torch.cat([encodings, answered, positions(rank, encodings)], dim=-1)
        states, _ = self.recurrent(self._one_later(self.inputs(features), rank))
        return (self.queries(_read(states, rank)) * encodings).sum(-1)

    def loss(self, encodings: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy of the responses (`batch.targets` [B, S]), mean over the slots that hold an item."""
        return mean_over_slots(self.scores(encodings, batch), batch)

    @staticmethod
    def _one_later(inputs: Tensor, rank: Tensor) -> Tensor:
        """Inputs [B, S, d] without the gaps that padding leaves, each one place later; zeros first and last."""
        slots = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
        source = torch.full_like(rank, -1)
        later = torch.where(rank >= 0, rank + 1, 0)
        wide = torch.cat([source, source[:, :1]], dim=1).scatter(1, later, torch.where(rank >= 0, slots, -1))
        wide[:, 0] = -1
        return _read(inputs, wide[:, :-1])


def _read(rows: Tensor, places: Tensor) -> Tensor:
    """rows [B, S, d] of each user at `places` [B, S]; zeros where a place is negative."""
    first = torch.arange(len(rows), device=rows.device)[:, None] * rows.shape[1]
    return gather_slots(rows.flatten(0, 1), torch.where(places >= 0, places + first, -1))
