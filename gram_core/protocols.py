"""The roles of content-based collaborative filtering: source of items, content encoder, CF module, method."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from gram_core.batch import Batch

Exactness = Literal["exact", "stale", "other-model"]
"""exact: end-to-end training's gradient with dropout off; stale: some encodings are older than the
encoder; other-model: trains something else (frozen encoder, ids only)."""


@runtime_checkable
class ItemSource(Protocol):
    """A catalogue of I items: `ItemTable` for texts, `IndexedItems` for pictures and anything else ids can index."""

    @property
    def lengths(self) -> Tensor:
        """Tokens per item, patches of a picture for one; int64 [I]."""
        ...

    def __len__(self) -> int:
        """I."""
        ...

    def take(self, items: Tensor) -> Any:
        """What the encoder takes of `items` [n], in that order, on the host."""
        ...


@runtime_checkable
class ContentEncoder(Protocol):
    """A model of what items are, texts or pictures: n of them -> encodings [n, d]. Usually an `nn.Module`.

    One that never draws random numbers, as dropout does, says `draws_random_numbers = False`: whoever encodes items
    twice then need not save the generators' state, for which a GPU is waited for.
    """

    width: int

    def __call__(self, content: Any, /) -> Tensor:
        """Encodings [n, d], on the encoder's device, of what `ItemSource.take` gave, `Texts` for one."""
        ...

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Tokens that the encoder computes for items of these lengths, each, padding included; int64 [n].

        Token budgets are in this unit, since it is what memory and time follow.
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the encoder's optimizer moves."""
        ...


@runtime_checkable
class CFModule(Protocol):
    """The small collaborative filtering model on encodings [B, S, d]; zero where a slot is padding.

    Its loss is a mean: over users in ranking, over slots that hold an item in response prediction. A module whose loss
    is a mean over something else says of how many terms, `terms(batch) -> int` (see `gram_core.protocols`).
    """

    @property
    def name(self) -> str:
        """As configuration and reports call it."""
        ...

    @property
    def task(self) -> Literal["ranking", "response"]:
        """ranking: `Batch.targets` is the clicked candidate [B]; response: correctness [B, S]."""
        ...

    def loss(self, encodings: Tensor, batch: Batch) -> Tensor:
        """The scalar training loss of a batch."""
        ...

    def scores(self, encodings: Tensor, batch: Batch) -> Tensor:
        """What is ranked or thresholded at evaluation: [B, C] in ranking, [B, S] in response prediction."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the CF module's optimizer moves."""
        ...


@runtime_checkable
class Method(Protocol):
    """A way to train encoder and CF module together, batch by batch.

    One that is written for several processes, through `Training.share` or `end_to_end`, says `distributes = True`.
    What the harness asks besides has its defaults in `gram_core.methods._base.MethodBase`.
    """

    @property
    def training(self) -> Any:
        """What it trains: the `Training` that it was given, or its own."""
        ...

    @property
    def name(self) -> str:
        """As reports call it."""
        ...

    @property
    def exactness(self) -> Exactness:
        """What it trains, compared with end-to-end training."""
        ...

    @property
    def interval(self) -> int:
        """CF steps per update of the encoder: the shortest stretch of steps that is worth timing."""
        ...

    def step(self, batch: Batch) -> Tensor:
        """Trains on one batch; returns its loss, detached and unsynchronised."""
        ...

    def finish(self) -> None:
        """Brings the encoder up to date with every step taken; to be called before evaluation."""
        ...

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items, with repeats, whose texts pass the encoder in these consecutive steps from a fresh start; where
        what is kept of earlier steps decides it, those that did when these batches were stepped on.

        One tensor per pass; a forward pass without a graph counts, recomputation does not.
        """
        ...


@runtime_checkable
class Stateful(Protocol):
    """What a method offers besides, where it keeps more from step to step than parameters and optimizers: caches, say.

    Optional. Asked for between steps that leave nothing pending; a training that is interrupted goes on from it.
    """

    def state(self) -> dict[str, Tensor]:
        """All that the next steps depend on, by name; empty where there is nothing now."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Makes the next steps those that would have followed `state`; the tensors may lie on the host."""
        ...


@runtime_checkable
class Accumulating(Protocol):
    """What a method offers besides, where steps can leave the encoder behind: when `finish` would change its course."""

    @property
    def pending(self) -> bool:
        """Whether steps are waiting for the encoder to learn from them."""
        ...


def loss_terms(cf_module: CFModule, batch: Batch) -> int:
    """What the module's own `terms(batch)` says; without one, users in ranking and real slots in response prediction.

    The loss of two batches joined is the mean of their losses weighted with this.
    """
    own = getattr(cf_module, "terms", None)
    if own is not None:
        return int(own(batch))
    return batch.users if cf_module.task == "ranking" else batch.item_slots


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
