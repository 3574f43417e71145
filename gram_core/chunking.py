"""Encoding many texts within a token budget: graphs are kept while they fit, the rest is recomputed.

The encoder sees chunks of consecutive texts. Chunks within the budget keep their graph from forward to
backward; later ones run forward without one, and again with one when their gradient arrives, replaying the
random state of the first time, so that dropout draws the same masks (as in gradient caching, Gao et al. 2021).

n texts, d width; token counts are the encoder's own (`computed_tokens`), padding included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from gram_core.training import Share, Training, pass_back


def chunk_bounds(tokens: Tensor, budget: int | None) -> list[tuple[int, int]]:
    """(start, stop) of consecutive chunks whose `tokens` [n] sum to at most `budget`.

    As few as taking texts while they fit gives, and even, so that chunks of the same size come again: all but the last
    are within the largest text of each other, and the last lacks at most what the others have beyond the mean. A text
    larger than the budget is a chunk of its own; budget None is one chunk; no texts, no chunks.
    """
    if budget is not None and budget < 1:
        raise ValueError(f"a token budget must be at least 1, not {budget}")
    if len(tokens) == 0:
        return []
    if budget is None:
        return [(0, len(tokens))]
    ends = tokens.cumsum(0)
    fewest = len(_filled(ends, budget))
    even = -(-int(ends[-1]) // fewest)
    return _filled(ends, min(budget, even + int(tokens.max()) - 1))


def _filled(ends: Tensor, budget: int) -> list[tuple[int, int]]:
    """Chunks that take texts in order while they fit; ends [n]: tokens up to the end of each text."""
    bounds, start, taken = [], 0, 0
    while start < len(ends):
        stop = max(start + 1, int(torch.searchsorted(ends, taken + budget, right=True)))
        bounds.append((start, stop))
        start, taken = stop, int(ends[stop - 1])
    return bounds


@dataclass(frozen=True)
class RandomState:
    """The state of the random generators that dropout draws from, on the host and on one device."""

    host: Tensor
    device: torch.device
    on_device: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The present state; nothing is drawn."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), device, on_device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Within, random draws repeat those that followed `now`; afterwards the generators are as before."""
        with torch.random.fork_rng(devices=[self.device] if self.on_device is not None else []):
            torch.set_rng_state(self.host)
            if self.on_device is not None:
                torch.cuda.set_rng_state(self.on_device, self.device)
            yield


@dataclass
class _Chunk:
    items: Tensor
    encodings: Tensor
    kept: bool
    """Whether its graph was."""
    random_state: RandomState | None = None
    """That of before the first pass, where a second one must draw the same."""

    def redrawing(self) -> AbstractContextManager[None]:
        """Within, random draws are those of the first pass."""
        return nullcontext() if self.random_state is None else self.random_state.replayed()


class KeptEncoding:
    """Encodings [n, d] whose whole graph is at hand: one chunk, nothing recomputed."""

    def __init__(self, encodings: Tensor):
        self._graph = encodings
        self.encodings = encodings.detach()

    def backward(self, gradient: Tensor) -> None:
        """Adds to the encoder's `.grad` what dL/d encodings [n, d] makes of it."""
        pass_back(self._graph, gradient)


class GraphBudget:
    """Decides chunk by chunk whether a graph may still be kept, from tokens kept and from memory in use.

    kept_tokens: the most tokens whose graphs wait for the backward; None is no limit.
    memory_budget: the most memory in use while graphs are kept, in bytes, or, up to 1, as a share of the device;
    None is no limit. What a chunk will take is foreseen from what the largest one per token took so far.
    allocated: bytes in use on the device; torch's CUDA allocator's, unless another meter is given.
    Raises ValueError for a memory budget on a device that tells neither (a CPU: bound kept_tokens there).
    """

    def __init__(
        self,
        device: torch.device,
        kept_tokens: int | None = None,
        memory_budget: float | None = None,
        allocated: Callable[[], int] | None = None,
    ):
        self._kept_tokens = kept_tokens
        self._bytes = None if memory_budget is None else budget_bytes(memory_budget, device)
        if self._bytes is not None and allocated is None and device.type != "cuda":
            raise ValueError("memory_budget needs a CUDA device, which tells what is in use; bound kept_tokens instead")
        self._allocated = allocated or (lambda: torch.cuda.memory_allocated(device))
        self._tokens = 0
        self._bytes_per_token = 0.0
        self._full = False

    def allows(self, tokens: int) -> bool:
        """Whether the next chunk, of so many tokens, may keep its graph; once no, always no."""
        over = self._kept_tokens is not None and self._tokens + tokens > self._kept_tokens
        if self._bytes is not None and not over:
            over = self._allocated() + self._bytes_per_token * tokens > self._bytes
        self._full = self._full or over
        return not self._full

    @contextmanager
    def keeping(self, tokens: int) -> Iterator[None]:
        """Within, a chunk of so many tokens runs forward and keeps its graph."""
        before = self._allocated() if self._bytes is not None else 0
        yield
        self._tokens += tokens
        if self._bytes is not None and tokens:
            self._bytes_per_token = max(self._bytes_per_token, (self._allocated() - before) / tokens)


def budget_bytes(memory_budget: float, device: torch.device) -> float:
    """A memory budget in bytes: it is told so, or, up to 1, as a share of the device. Raises ValueError for neither."""
    if not memory_budget > 0:
        raise ValueError(f"memory_budget must be above 0: bytes, or up to 1 a share of the device, not {memory_budget}")
    if memory_budget > 1:
        return memory_budget
    if device.type != "cuda":
        raise ValueError("memory_budget as a share needs a CUDA device; give bytes or kept_tokens instead")
    return memory_budget * torch.cuda.get_device_properties(device).total_memory


class ChunkedEncoding:
    """Encodings of `items` [n], and their backward, within budgets.

    chunk_tokens: the most tokens the encoder sees at once; None is no limit. Only bounds memory.
    budget: which chunks keep their graph; None keeps all. Only bounds memory.
    """

    def __init__(self, training: Training, items: Tensor, chunk_tokens: int | None, budget: GraphBudget | None = None):
        self._training = training
        tokens = training.encoder.computed_tokens(training.table.lengths[items])
        budget = budget or GraphBudget(training.device)
        draws = getattr(training.encoder, "draws_random_numbers", True)
        self._chunks: list[_Chunk] = []
        for start, stop in chunk_bounds(tokens, chunk_tokens) or [(0, 0)]:  # a process without items has an empty chunk
            chunk, size = items[start:stop], int(tokens[start:stop].sum())
            if budget.allows(size):
                with budget.keeping(size):
                    self._chunks.append(_Chunk(chunk, training.encode(chunk), kept=True))
            else:
                state = RandomState.now(training.device) if draws else None
                with torch.no_grad():
                    self._chunks.append(_Chunk(chunk, training.encode(chunk), kept=False, random_state=state))
        self.encodings = torch.cat([chunk.encodings.detach() for chunk in self._chunks])
        """[n, d], detached."""

    def backward(self, gradient: Tensor) -> None:
        """Adds to the encoder's `.grad` what dL/d encodings [n, d] makes of it. Once only: graphs are freed.

        Kept chunks go first, so that their memory is free when the others are recomputed.
        """
        parts = gradient.split([len(chunk.items) for chunk in self._chunks])
        for chunk, part in sorted(zip(self._chunks, parts, strict=True), key=lambda pair: not pair[0].kept):
            if chunk.kept:
                pass_back(chunk.encodings, part)
            else:
                with chunk.redrawing():
                    again = self._training.encode(chunk.items)
                pass_back(again, part)
            chunk.encodings = part
        self._chunks = []


class SharedEncoding:
    """Rows that slots read [n, d], and their backward, of which `own` encoded this process's share."""

    def __init__(self, own: ChunkedEncoding | KeptEncoding, share: Share):
        self._own, self._share = own, share
        self.encodings = share.spread(own.encodings)
        """[n, d], detached."""

    def backward(self, gradient: Tensor) -> None:
        """Adds to the encoder's `.grad` what dL/d rows [n, d] makes of it."""
        self._own.backward(self._share.collect(gradient))
