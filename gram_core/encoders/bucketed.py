"""A padded encoder on texts of like length: where packing does not apply, padding is kept small instead.

Texts are sorted by length and cut into runs, each padded to its own longest. n texts, d width.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gram_core.batch import Texts
from gram_core.encoders._weights import bypassed, rewrites
from gram_core.encoders.huggingface import HuggingFaceEncoder

CALL_TOKENS = 256
"""What one more call of the encoder costs a processor, in tokens computed instead: smaller matrices."""
LAUNCHES, LAUNCHES_WIDTH = 32768, 768
"""A GPU waits for a call's launches, whatever it computes: as long as a model of this width computes so many tokens.
Six layers of width 768 take 24 ms for any few texts on an H100, forward and backward in bf16, and 62 ms for 56k tokens:
22k tokens cost what the launches do, here taken half as many again. The wider the model, by the square, the fewer."""


def length_bounds(lengths: list[int], cost: Callable[[int], int]) -> list[tuple[int, int]]:
    """(start, stop) of runs over ascending `lengths`, for which `cost` of their padded tokens sums to the least.

    Exact, by dynamic programming over the distinct lengths (a run never splits equal lengths).
    """
    ends = [i + 1 for i in range(len(lengths)) if i + 1 == len(lengths) or lengths[i + 1] != lengths[i]]
    best: list[tuple[int, int]] = [(0, 0)]
    """Least cost of the texts before each end, and the index of the end where the last run starts."""
    starts = [0, *ends]
    for j, end in enumerate(ends, start=1):
        longest = lengths[end - 1]
        best.append(min((best[i][0] + cost((end - starts[i]) * longest), i) for i in range(j)))
    bounds = []
    j = len(ends)
    while j > 0:
        i = best[j][1]
        bounds.append((starts[i], starts[j]))
        j = i
    return bounds[::-1]


def on_processor(tokens: int, call_tokens: int = CALL_TOKENS) -> int:
    """What a call costs there."""
    return tokens + call_tokens


def on_gpu(tokens: int, width: int) -> int:
    """What a call costs there: no less than its launches take, so that runs are cut only where each is worth a call.

    One run, padded to the longest text, is what a padded encoder computes at the least; cut, it is never slower.
    """
    launches = max(1, LAUNCHES * LAUNCHES_WIDTH**2 // width**2)
    return max(launches, tokens) + launches // 8


def refuses(encoder: HuggingFaceEncoder, amp_dtype: torch.dtype | None = None) -> str | None:
    """Why an encoder can't be called run by run; None where it can."""
    if type(encoder).forward is not HuggingFaceEncoder.forward or type(encoder).encode is not HuggingFaceEncoder.encode:
        return f"it is a {type(encoder).__qualname__} with a pass of its own"
    if (reason := bypassed(encoder)) is not None:
        return f"the encoder has {reason}"
    return rewrites(encoder)


class BucketedEncoder(nn.Module):
    """The same encodings as `encoder` (whose parameters it shares), padded per run of like lengths.

    cost: of a call by its padded tokens; None takes the device's.
    """

    def __init__(self, encoder: HuggingFaceEncoder, cost: Callable[[int], int] | None = None):
        super().__init__()
        self.encoder = encoder
        self.width = encoder.width
        on_device = partial(on_gpu, width=encoder.hidden_width) if encoder.model.device.type == "cuda" else on_processor
        self.cost = cost or on_device

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Tokens per text, padded within its run, int64 [n]."""
        if refuses(self.encoder) is not None:
            return self.encoder.computed_tokens(lengths)
        order, bounds = self._runs(lengths)
        tokens = torch.empty_like(lengths)
        for start, stop in bounds:
            tokens[order[start:stop]] = lengths[order[stop - 1]]
        return tokens

    def forward(self, texts: Texts) -> Tensor:
        """Encodings [n, d], in the order of `texts`; by the encoder as a whole where something hangs on that by now."""
        if refuses(self.encoder) is not None:
            return self.encoder(texts)
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
        return order, length_bounds(ordered.tolist(), self.cost)
