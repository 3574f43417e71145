"""A memory budget in tokens, for steps replayed from graphs, whose pool does not show chunk by chunk what is in use."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gram_core.chunking import budget_bytes

WATCHED_STEPS = 3
"""Steps that keep nothing, until what stays is allocated: run as they are, captured, replayed."""
LARGER = 1.5
"""A chunk so much larger than the one that was measured is measured as well."""


class MemoryRoom:
    """How many tokens' graphs a budget has room for beside what a step needs that keeps none.

    memory_budget: bytes, or, up to 1, a share of the device (see `GraphBudget`). What a step needs anyway is what stays
    between steps and twice the graph of a chunk, which passes backward. What is left is halved: the first call of new
    sizes, which no graph serves, takes as much again beside the graphs' pool.
    """

    def __init__(self, memory_budget: float, device: torch.device):
        self._bytes = budget_bytes(memory_budget, device)
        self._device = device
        self._steps = 0
        self._measured = 0
        """Tokens of the chunk that was measured."""
        self.kept_tokens = 0
        """Of the last step."""

    def tokens(self, encode: Callable[[], object], tokens: int) -> int:
        """Of the next step. encode: runs a chunk of so many tokens, and returns what its graph hangs on."""
        self._steps += 1
        if self._steps > WATCHED_STEPS and tokens > LARGER * self._measured:
            stays = torch.cuda.memory_allocated(self._device)
            graph = encode()
            held = torch.cuda.memory_allocated(self._device) - stays
            del graph
            left = (self._bytes - stays - 2 * held) / 2
            self._measured, self.kept_tokens = tokens, max(0, int(left * tokens / max(held, 1)))
        return self.kept_tokens
