"""NRMS: self-attention over the history, additive attention to one user vector, dot product with candidates.

Sizes as GRAM uses it for news recommendation (Sec. 5.1): 16 heads of 48 at d = 768, additive query of 200.
B users, H history slots, C candidates, d width.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gram_core.attention import AdditiveAttention
from gram_core.batch import Batch


class NRMS(nn.Module):
    """The user side of NRMS on item encodings of any width that its heads divide.

    Raises ValueError where `heads` does not divide `width`.
    """

    name: ClassVar[str] = "nrms"
    task: ClassVar[Literal["ranking", "response"]] = "ranking"

    def __init__(self, width: int, heads: int = 16, query_width: int = 200):
        super().__init__()
        if width % heads:
            raise ValueError(f"nrms needs a width that its {heads} heads divide, not {width}")
        self.heads = heads
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.pool = AdditiveAttention(width, query_width)

    def user_vectors(self, history: Tensor, mask: Tensor) -> Tensor:
        """History encodings [B, H, d] with mask [B, H] -> user vectors [B, d]; zeros without history."""
        q, k, v = (self._split(layer(history)) for layer in (self.queries, self.keys, self.values))
        visible = mask[:, None, None, :] | ~mask.any(dim=1)[:, None, None, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.pool(attended.transpose(1, 2).flatten(2), mask)

    def scores(self, encodings: Tensor, batch: Batch) -> Tensor:
        """Scores [B, C] of each user's candidates."""
        history, candidates = encodings[:, : batch.history_length], encodings[:, batch.history_length :]
        users = self.user_vectors(history, batch.mask[:, : batch.history_length])
        return (candidates * users[:, None, :].to(candidates.dtype)).sum(-1)

    def loss(self, encodings: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the clicked candidate (`batch.targets` [B]) among those that the mask shows."""
        scores = self.scores(encodings, batch)
        shown = batch.mask[:, batch.history_length :]
        return F.cross_entropy(scores.masked_fill(~shown, float("-inf")), batch.targets)

    def _split(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
