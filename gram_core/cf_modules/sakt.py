"""SAKT: attention of the item to be answered over the items that were (Pandey and Karypis, 2019).

The query is the next item's encoding, keys and values are encodings of answered items with their correctness and
position; one layer, feed-forward network, residuals and layer norms as published.
B users, S slots, d width.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gram_core.batch import Batch
from gram_core.response import mean_over_slots, positions, ranks


class SAKT(nn.Module):
    """Response prediction for encodings of any even width that its heads divide; raises ValueError for others."""

    name: ClassVar[str] = "sakt"
    task: ClassVar[Literal["ranking", "response"]] = "response"

    def __init__(self, width: int, heads: int = 8, dropout: float = 0.2):
        super().__init__()
        if width % heads or width % 2:
            raise ValueError(f"sakt needs an even width that its {heads} heads divide, not {width}")
        self.heads = heads
        self.responses = nn.Embedding(2, width)
        self.start = nn.Parameter(torch.randn(width) / width**0.5)
        self.answered = nn.Linear(2 * width, width)
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.attended = nn.Linear(width, width)
        self.attended_norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, width)
        self.narrow = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, 1)

    def scores(self, encodings: Tensor, batch: Batch) -> Tensor:
        """Logits [B, S] of a right response; at a user's first slot they know the item alone."""
        memory = self._memory(encodings, batch)
        q = self._split(self.queries(encodings))
        k, v = self._split(self.keys(memory)), self._split(self.values(memory))
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=_earlier(batch.mask)[:, None])
        attended = self.dropout(self.attended(read.transpose(1, 2).flatten(2)))
        hidden = self.attended_norm(encodings + attended)
        fed = self.dropout(self.narrow(F.relu(self.wide(hidden))))
        return self.output(self.norm(hidden + fed)).squeeze(-1)

    def loss(self, encodings: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy of the responses (`batch.targets` [B, S]), mean over the slots that hold an item."""
        return mean_over_slots(self.scores(encodings, batch), batch)

    def _memory(self, encodings: Tensor, batch: Batch) -> Tensor:
        """What may be attended to [B, 1 + S, d]: a start that all see, then each slot's item with its response."""
        answered = self.responses((batch.targets > 0.5).long())
        places = positions(ranks(batch.mask), encodings.dtype, encodings.shape[-1])
        items = self.answered(torch.cat([encodings, answered], dim=-1)) + places
        return torch.cat([self.start.to(items.dtype).expand(len(items), 1, -1), items], dim=1)

    def _split(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _earlier(mask: Tensor) -> Tensor:
    """Which of start and slots [1 + S] a slot [S] sees, bool [B, S, 1 + S]: those that hold an item before it."""
    slots = mask.shape[1]
    before = torch.ones(slots, slots, dtype=torch.bool, device=mask.device).tril(-1) & mask[:, None, :]
    return torch.cat([torch.ones_like(before[:, :, :1]), before], dim=-1)
