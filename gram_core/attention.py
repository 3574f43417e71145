"""Additive attention pooling (Bahdanau-style, as NRMS uses it), for user vectors and for texts.

n rows, K entries per row, d width, q query width.
"""

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Rows [n, K, d] and mask [n, K] -> weighted mean [n, d]; weights softmax(q . tanh(W x + b)).

    A row whose mask is all False gives zeros and no gradient, rather than NaN.
    """

    def __init__(self, width: int, query_width: int = 200):
        super().__init__()
        self.project = nn.Linear(width, query_width)
        self.query = nn.Linear(query_width, 1, bias=False)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """The pooled rows [n, d]."""
        logits = self.query(torch.tanh(self.project(rows))).squeeze(-1)
        weights = torch.softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=-1) * mask
        return (weights.to(rows.dtype)[..., None] * rows).sum(dim=-2)
