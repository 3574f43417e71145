"""The gradient of a large table of embeddings, of which a step reads a few rows.

Autograd makes a table of zeros for it and adds the rows; with 150,000 words of width 1024 that, a copy of it and an
AdamW step on all of it move 6 GB. Here rows are added where `FusedAdamW` reads them, which leaves zeros behind and
passes over what was never read. T tokens, V rows, d width.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gram_core.encoders._class_calls import calling
from gram_core.kernels.adamw import PIECE

NAME = "_gram_core_rows"
"""The attribute that holds a module's `TableRows` within `reading`."""
FEWEST_NUMBERS = 1 << 22
"""In a table for which this is worth while."""


class TableRows:
    """The gradient of a table [V, d]: zeros but for rows that were read since the last move.

    touched [pieces]: which pieces of `PIECE` numbers of it have a gradient, or state in the optimizer.
    anchor: stands for the table in autograd's graph, which knows when the last one of its readings has added its rows.
    arrived: called then. pending: whether a backward pass has added rows; who moves by them sets it back.
    """

    def __init__(self, table: Tensor, arrived: Callable[[Tensor], None]):
        self.gradient = torch.zeros_like(table, dtype=torch.float32)
        self.touched = torch.zeros(-(-table.numel() // PIECE), dtype=torch.int32, device=table.device)
        self.anchor = torch.zeros((), requires_grad=True, device=table.device)
        self.anchor.register_post_accumulate_grad_hook(arrived)
        self.pending = False

    def add(self, tokens: Tensor, gradients: Tensor, ignored: int | None) -> None:
        """Adds gradients [T, d] to the rows `tokens` [T]; not to the row `ignored`, if there is one."""
        width = gradients.shape[1]
        if ignored is not None:
            gradients = gradients.masked_fill((tokens == ignored)[:, None], 0.0)
        self.gradient.index_add_(0, tokens, gradients.to(self.gradient.dtype))
        first = tokens * width
        for place in (first, first + (width - 1)):  # a row is no longer than a piece, and may lie across two
            self.touched.index_fill_(0, place // PIECE, 1)
        self.pending = True

    def clear(self) -> None:
        """Forgets what was added."""
        self.gradient.zero_()
        self.anchor.grad, self.pending = None, False


def large_tables(root: nn.Module, learning: set[int]) -> dict[int, Any]:
    """The modules whose tables are large, learn and are no other module's as well, by their parameter's id."""
    readers = Counter(id(p) for module in root.modules() for p in module._parameters.values() if p is not None)
    found = {}
    for module in root.modules():
        if isinstance(module, nn.Embedding) and not (module.sparse or module.scale_grad_by_freq or module.max_norm):
            table = module.weight
            large = table.numel() >= FEWEST_NUMBERS and table.shape[1] <= PIECE
            if large and id(table) in learning and readers[id(table)] == 1 and table.dtype == torch.float32:
                found[id(table)] = module
    return found


def read_as_rows(
    tables: Mapping[int, Any], gradients: Callable[[list[Tensor]], Sequence[Tensor | None]]
) -> dict[int, Any]:
    """Those of `tables` that have their gradient by `nn.Embedding`'s own call alone, and not because their weight is
    read as well, or by a call of a subclass's own.

    gradients: makes them in a pass, for tensors that are given; None of those that the pass does not read.
    """
    if not tables:
        return {}
    tried = [_Tried(module.weight) for module in tables.values()]
    with reading(dict(zip(tables.values(), tried, strict=True))):
        found = gradients([*(module.weight for module in tables.values()), *(one.anchor for one in tried)])
    others, own = found[: len(tried)], found[len(tried) :]
    return {
        number: module
        for (number, module), other, its in zip(tables.items(), others, own, strict=True)
        if other is None and its is not None
    }


class _Tried:
    """Rows of a table of which nothing is kept."""

    def __init__(self, table: Tensor):
        self.anchor = torch.zeros((), requires_grad=True, device=table.device)

    def add(self, *_: Any) -> None:
        """Does nothing."""


@contextmanager
def reading(rows_of: Mapping[Any, TableRows] | Mapping[Any, _Tried]) -> Iterator[None]:
    """Within, these modules' backward passes add to their `TableRows`, and give their parameter no gradient."""
    if not rows_of:
        yield
        return
    with calling(nn.Embedding, NAME, rows_of, _forward_of):
        yield


@cache
def _forward_of(own: Any) -> Callable[..., Tensor]:
    """Of the class, for some that inherit it scale what it gives."""

    def forward(module: Any, input: Tensor) -> Tensor:  # torch's name, by which some call it
        rows = getattr(module, NAME, None)
        if rows is None:
            return own(module, input)
        return _Read.apply(input, module.weight, rows.anchor, module.padding_idx, rows)

    return forward


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, table: Tensor, anchor: Tensor, ignored: int | None, rows: TableRows | _Tried
    ) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.ignored, ctx.rows, ctx.anchor = ignored, rows, anchor.detach()
        return F.embedding(tokens, table, ignored)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (tokens,) = ctx.saved_tensors
        ctx.rows.add(tokens.flatten(), gradient.flatten(0, -2), ctx.ignored)
        return None, None, ctx.anchor, None, None
