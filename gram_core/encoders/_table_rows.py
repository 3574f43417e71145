"""The gradient of a large table of embeddings, of which a step reads a few rows.

Autograd makes a table of zeros for it and adds the rows; with 150,000 words of width 1024 that, a copy of it and an
AdamW step on all of it move 6 GB. Here rows are added where `FusedAdamW` reads them, which leaves zeros behind and
passes over what was never read. T tokens, V rows, d width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gram_core.kernels.adamw import PIECE

NAME = "_gram_core_rows"
"""The attribute that holds a module's `TableRows` within `reading`."""
FEWEST_NUMBERS = 1 << 22
"""In a table for which this is worth while."""


class TableRows:
    """The gradient of a table [V, d]: zeros but for rows that were read since the last move.

    touched [pieces]: which pieces of `PIECE` numbers of it have a gradient, or state in the optimizer.
    arrived: called when a backward pass has added its rows.
    """

    def __init__(self, table: Tensor, arrived: Callable[[], None]):
        self.gradient = torch.zeros_like(table, dtype=torch.float32)
        self.touched = torch.zeros(-(-table.numel() // PIECE), dtype=torch.int32, device=table.device)
        self._arrived = arrived

    def add(self, tokens: Tensor, gradients: Tensor, ignored: int | None) -> None:
        """Adds gradients [T, d] to the rows `tokens` [T]; not to the row `ignored`, if there is one."""
        width = gradients.shape[1]
        if ignored is not None:
            gradients = gradients.masked_fill((tokens == ignored)[:, None], 0.0)
        self.gradient.index_add_(0, tokens, gradients.to(self.gradient.dtype))
        first = tokens * width
        for place in (first, first + (width - 1)):  # a row is no longer than a piece, and may lie across two
            self.touched.index_fill_(0, place // PIECE, 1)
        self._arrived()

    def clear(self) -> None:
        """Forgets what was added."""
        self.gradient.zero_()


def large_tables(root: nn.Module, learning: set[int]) -> dict[int, Any]:
    """The modules whose tables are large, learn and are read by nobody else, by their parameter's id."""
    readers = Counter(id(p) for module in root.modules() for p in module._parameters.values() if p is not None)
    found = {}
    for module in root.modules():
        if isinstance(module, nn.Embedding) and not (module.sparse or module.scale_grad_by_freq or module.max_norm):
            table = module.weight
            large = table.numel() >= FEWEST_NUMBERS and table.shape[1] <= PIECE
            if large and id(table) in learning and readers[id(table)] == 1 and table.dtype == torch.float32:
                found[id(table)] = module
    return found


@contextmanager
def reading(rows_of: Mapping[Any, TableRows]) -> Iterator[None]:
    """Within, these modules' backward passes add to their `TableRows`, and give their parameter no gradient."""
    if not rows_of:
        yield
        return
    own = nn.Embedding.forward
    for module, rows in rows_of.items():
        vars(module)[NAME] = rows
    nn.Embedding.forward = _forward_of(own)  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Embedding.forward = own  # type: ignore[method-assign]
        for module in rows_of:
            del vars(module)[NAME]


@cache
def _forward_of(own: Any) -> Callable[..., Tensor]:
    """Of the class, for some that inherit it scale what it gives."""

    def forward(module: Any, tokens: Tensor) -> Tensor:
        rows = getattr(module, NAME, None)
        if rows is None:
            return own(module, tokens)
        return _Read.apply(tokens, module.weight, module.padding_idx, rows)

    return forward


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, table: Tensor, ignored: int | None, rows: TableRows) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.ignored, ctx.rows = ignored, rows
        return F.embedding(tokens, table, ignored)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        (tokens,) = ctx.saved_tensors
        ctx.rows.add(tokens.flatten(), gradient.flatten(0, -2), ctx.ignored)
        return None, None, None, None
