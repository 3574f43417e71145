"""A padded encoder on texts of like length: where packing does not apply, padding is kept small instead.

Texts are sorted by length and cut into runs, each padded to its own longest. n texts, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gram_core.batch import Texts
from gram_core.encoders.huggingface import HuggingFaceEncoder

CALL_TOKENS = 256
"""What one more call of the encoder costs, in tokens computed instead: launches, smaller matrices."""


def length_bounds(lengths: list[int], call_tokens: int) -> list[tuple[int, int]]:
    """(start, stop) of runs over ascending `lengths` with the least padded tokens plus call_tokens per run.

    Exact, by dynamic programming over the distinct lengths (a run never splits equal lengths).
    """
    ends = [i + 1 for i in range(len(lengths)) if i + 1 == len(lengths) or lengths[i + 1] != lengths[i]]
    best: list[tuple[int, int]] = [(0, 0)]
    """Least cost of the texts before each end, and the index of the end where the last run starts."""
    starts = [0, *ends]
    for j, end in enumerate(ends, start=1):
        longest = lengths[end - 1]
        best.append(min((best[i][0] + (end - starts[i]) * longest + call_tokens, i) for i in range(j)))
    bounds = []
    j = len(ends)
    while j > 0:
        i = best[j][1]
        bounds.append((starts[i], starts[j]))
        j = i
    return bounds[::-1]


class BucketedEncoder(nn.Module):
    """The same encodings as `encoder` (whose parameters it shares), padded per run of like lengths."""

    def __init__(self, encoder: HuggingFaceEncoder, call_tokens: int = CALL_TOKENS):
        super().__init__()
        self.encoder = encoder
        self.width = encoder.width
        self.call_tokens = call_tokens

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Tokens per text, padded within its run, int64 [n]."""
        order, bounds = self._runs(lengths)
        tokens = torch.empty_like(lengths)
        for start, stop in bounds:
            tokens[order[start:stop]] = lengths[order[stop - 1]]
        return tokens

    def forward(self, texts: Texts) -> Tensor:
        """Encodings [n, d], in the order of `texts`."""
        order, bounds = self._runs(texts.lengths)
        if len(bounds) == 1:
            return self.encoder.encode(texts, padded_to=None)
        ordered = texts.take(order)
        parts = [self.encoder.encode(ordered.slice(start, stop), padded_to=None) for start, stop in bounds]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return torch.cat(parts)[back.to(parts[0].device, non_blocking=True)]

    def _runs(self, lengths: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
        ordered, order = torch.sort(lengths, stable=True)
        return order, length_bounds(ordered.tolist(), self.call_tokens)
