"""A memory budget in tokens, for steps replayed from graphs, whose pool does not show chunk by chunk what is in use."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gram_core.chunking import budget_bytes

WATCHED_STEPS = 3
"""Steps that keep nothing and show what is needed anyway: run as they are, captured, replayed."""


class MemoryRoom:
    """How many tokens' graphs a budget has room for beside what a step needs that keeps none.

    memory_budget: bytes, or, up to 1, a share of the device (see `GraphBudget`). What is needed anyway is the most that
    this process ever had in use, up to the end of the watched steps; an earlier training's peak counts as well.
    """

    def __init__(self, memory_budget: float, device: torch.device):
        self._bytes = budget_bytes(memory_budget, device)
        self._device = device
        self._steps = 0
        self._tokens: int | None = None

    def tokens(self, encode: Callable[[], object], tokens: int) -> int:
        """Of the next step. encode: runs a chunk of so many tokens, and returns what its graph hangs on."""
        self._steps += 1
        if self._steps <= WATCHED_STEPS:
            return 0
        if self._tokens is None:
            needed = torch.cuda.max_memory_allocated(self._device)
            before = torch.cuda.memory_allocated(self._device)
            graph = encode()
            held = torch.cuda.memory_allocated(self._device) - before
            del graph
            self._tokens = max(0, int((self._bytes - needed) * tokens / max(held, 1)))
        return self._tokens
