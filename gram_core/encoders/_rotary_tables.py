"""The cos and sin that a model hands to its layers, halved: of most models, both halves of their columns are the same.

Whether they are is seen when a layer is called first, once; so a compiled layer can be told. Where layers compute in 16
bits, tables are read in float16 as well: eager code rounds them to bf16, which is eight times as coarse, and in float32
they are a fifth of what attention reads and writes. T tokens, D head width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NAME = "position_embeddings"
"""By which transformers' layers take their tables."""


class Halves(NamedTuple):
    """Columns [..., T, D / 2] that stand for both halves of cos and of sin."""

    cos: Tensor
    sin: Tensor


class RotaryTables:
    """Which layers take tables whose halves are the same.

    dtype: that layers compute in.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = torch.float16 if dtype.itemsize == 2 else None
        self._halved: dict[int, bool] = {}
        self._of_pass: dict[int, tuple[Any, Halves]] = {}
        """Tables of the present pass, and their halves: all layers of a kind take the same."""

    def pass_is_over(self) -> None:
        """Forgets its tables, whose memory may be a graph's."""
        self._of_pass.clear()

    def halved(self, layer: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """The layer's inputs, with halves of its tables instead of these where they say the same."""
        tables: Any = inputs.get(NAME)
        if not _are_tables(tables) or not self._same_halves(layer, tables):
            return inputs
        if id(tables) not in self._of_pass:
            self._of_pass[id(tables)] = (tables, self._halves(tables))
        return inputs | {NAME: self._of_pass[id(tables)][1]}

    def _halves(self, tables: tuple[Tensor, Tensor]) -> Halves:
        return Halves(*(table[..., : table.shape[-1] // 2].to(self._dtype or table.dtype) for table in tables))

    def _same_halves(self, layer: nn.Module, tables: tuple[Tensor, Tensor]) -> bool:
        if id(layer) not in self._halved:
            if tables[0].is_cuda and torch.cuda.is_current_stream_capturing():
                return False  # what is captured may not ask
            if not tables[1].any():
                return False  # angles of nought, as of texts of one token, tell nothing
            self._halved[id(layer)] = all(torch.equal(*table.chunk(2, -1)) for table in tables)
        return self._halved[id(layer)]


def whole(inputs: dict[str, Any]) -> dict[str, Any]:
    """A layer's inputs as its model has them, given those of `RotaryTables.halved`."""
    tables = inputs.get(NAME)
    if not isinstance(tables, Halves):
        return inputs
    wide = [half.float() if half.dtype == torch.float16 else half for half in tables]  # autocast to bf16 joins no other
    return inputs | {NAME: tuple(torch.cat((half, half), -1) for half in wide)}


def _are_tables(tables: Any) -> bool:
    return (
        isinstance(tables, tuple)
        and len(tables) == 2
        and all(isinstance(table, Tensor) and not table.requires_grad for table in tables)
        and tables[0].shape == tables[1].shape
        and tables[0].is_floating_point()
        and tables[0].ndim > 1
        and tables[0].shape[-1] % 2 == 0
    )
