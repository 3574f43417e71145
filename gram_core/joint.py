"""What sums gradients over processes that train together, as the rest of the core sees it (`gram_core.distributed`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")
Room = Callable[[int, torch.dtype], Tensor]


class Joint(Protocol):
    """The sums of `Optimization.joint`; `gram_core.distributed.gradients` says what each does."""

    dtype: torch.dtype | None
    reduced: bool
    undecided: bool

    @property
    def way(self) -> str: ...  # noqa: D102
    def make_capturable(self, device: torch.device) -> None: ...  # noqa: D102 - documented where it is done
    def in_peers(self, make: Callable[[Room | None], Made]) -> Made: ...  # noqa: D102
    def reduce(self, parameters: Sequence[Tensor]) -> None: ...  # noqa: D102
    def reduce_aside(self, parameters: Sequence[Tensor], then: Callable[[], None]) -> None: ...  # noqa: D102
    def sum_aside(  # noqa: D102
        self, values: Sequence[Tensor], then: Callable[[], None], into: Sequence[Tensor] | None = None
    ) -> None: ...
    def join(self) -> None: ...  # noqa: D102
    def clip(self, parameters: Sequence[Tensor], max_norm: float) -> None: ...  # noqa: D102
