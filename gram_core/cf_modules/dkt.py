"""DKT: a recurrent network over a student's answered items, its state compared with the next item's encoding.

As GRAM uses it for knowledge tracing (Sec. 5.1): item, correctness and position features side by side, a linear layer,
two LSTM layers of width d with dropout 0.2, and an output tied to the items: an encoding is read both where the item
was answered and where its answer is predicted, so its gradient arrives from both sides.
B users, S slots, d width.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gram_core.batch import Batch
from gram_core.response import mean_over_slots, move_rows, positions, ranks


class DKT(nn.Module):
    """Response prediction for encodings of any even width: each slot from the slots before it."""

    name: ClassVar[str] = "dkt"
    task: ClassVar[Literal["ranking", "response"]] = "response"

    def __init__(self, width: int, layers: int = 2, dropout: float = 0.2):
        super().__init__()
        self.responses = nn.Embedding(2, width)
        self.inputs = nn.Linear(3 * width, width)
        self.recurrent = nn.LSTM(width, width, layers, dropout=dropout)
        self.queries = nn.Linear(width, width)

    def scores(self, encodings: Tensor, batch: Batch) -> Tensor:
        """Logits [B, S] of a right response; at a user's first slot they know the item alone.

        Of padding slots they mean nothing.
        """
        rank = ranks(batch.mask)
        slot_of = _slot_of(rank)
        states, _ = self.recurrent(self._inputs(encodings, batch, rank, slot_of))
        read = move_rows(states, _place(rank), _slot(slot_of, rank.shape[1]).t())
        return (self.queries(read) * encodings).sum(-1)

    def loss(self, encodings: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy of the responses (`batch.targets` [B, S]), mean over the slots that hold an item."""
        return mean_over_slots(self.scores(encodings, batch), batch)

    def _inputs(self, encodings: Tensor, batch: Batch, rank: Tensor, slot_of: Tensor) -> Tensor:
        """What the recurrent layers read [S, B, d], a user's items one behind the other: first zeros, then each item
        that was answered, place by place.

        The linear layer is taken apart, its products for correctness and position being few rows that slots share.
        Behind a user's last item stands what no slot reads.
        """
        of_items, of_responses, of_places = self.inputs.weight.chunk(3, dim=1)
        wrong, right = self.responses.weight
        places = positions(torch.arange(rank.shape[1], device=rank.device), encodings.dtype, encodings.shape[-1])
        shared = F.linear(places, of_places, self.inputs.bias) + F.linear(wrong, of_responses)
        earlier, later = slot_of[:, :-1], torch.where(rank < rank.shape[1] - 1, rank, -1)
        items = move_rows(F.linear(encodings, of_items), _slot(earlier, rank.shape[1]).t(), _place(later))
        items = items + shared[:-1, None]
        answered_right = (batch.targets > 0.5).gather(1, earlier.clamp(min=0)).t().to(items.dtype)
        items = items + answered_right[..., None] * F.linear(right - wrong, of_responses)
        return F.pad(items, (0, 0, 0, 0, 1, 0))


def _slot_of(rank: Tensor) -> Tensor:
    """Which slot holds a user's item of each rank, int64 [B, S]; -1 behind the last."""
    slots = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
    behind = torch.full_like(rank[:, :1], -1)  # takes what padding slots write
    wide = torch.cat([behind.expand_as(rank), behind], dim=1)
    held = rank >= 0
    return wide.scatter(1, torch.where(held, rank, rank.shape[1]), torch.where(held, slots, -1))[:, :-1]


def _place(rank: Tensor) -> Tensor:
    """Where ranks [B, S] stand among rows [S, B], counted through; -1 for negative ones."""
    users = torch.arange(len(rank), device=rank.device)[:, None]
    return torch.where(rank >= 0, rank * len(rank) + users, -1)


def _slot(slots: Tensor, count: int) -> Tensor:
    """Where each user's slots [B, T] stand among rows [B, count], counted through; -1 for negative ones."""
    users = torch.arange(len(slots), device=slots.device)[:, None]
    return torch.where(slots >= 0, users * count + slots, -1)
