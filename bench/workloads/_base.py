"""What a case asks of a workload, and what a workload hands over.

Shapes: B users, S = H + C slots per user (S = H in response prediction), L tokens per item at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from bench import registry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from bench.configuration.case import Case
    from bench.encoders._base import PictureFormat, Tokenizer
    from gram_core.batch import Batch
    from gram_core.protocols import ItemSource

PACKAGE = "bench.workloads"

Task = Literal["ranking", "response"]


class MalformedData(ValueError):
    """A data file that does not hold what it should; the message names the file and the line."""


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text without its end, of every line of a file; raises MalformedData, OSError."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise MalformedData(f"{path}, line {number}: not UTF-8") from error


def _no_items() -> Tensor:
    import torch

    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class HoldOut:
    """What is kept from training: shares of the log, and items of which training sees nothing.

    validation, test: shares of the log's users in response prediction, of each user's interactions (the last ones
    are test, those before them validation) in ranking. cold_items: a number of items or, as a float below 1, a share
    of the catalogue.
    """

    validation: float
    test: float
    cold_items: int | float


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What of a case decides whether a workload can be it.

    text_length: special tokens included. item_repetition_ratio: None where none is asked for. candidates: C = 1 +
    npratio, of no meaning in response prediction. argument: what follows the colon of "shape:toeic".
    """

    batch_size: int
    history_length: int
    text_length: int
    item_repetition_ratio: float | None = None
    candidates: int = 5
    task: Task = "ranking"
    argument: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorkloadRequest(Axes):
    """One case, and the encoder's conventions for texts, or for pictures.

    tokenizer: None where the encoder has no text of its own. opening_token_id, closing_token_id: what a text starts
    and ends with, where the encoder has it. special_token_ids: not to be drawn as random tokens. hold_out: None where
    everything is trained on. picture: what pictures the encoder reads, None where it reads texts. without_texts: only
    to see whether the log has what is asked for; its texts are empty.
    """

    seed: int
    vocab_size: int
    pad_token_id: int
    closing_token_id: int | None
    opening_token_id: int | None = None
    special_token_ids: frozenset[int] = frozenset()
    tokenizer: Tokenizer | None = None
    hold_out: HoldOut | None = None
    picture: PictureFormat | None = None
    without_texts: bool = False


@dataclass(frozen=True, eq=False)
class Scored:
    """A batch to be scored, and what of it is cold: bool [B] (the clicked item) in ranking, [B, S] in response."""

    batch: Batch
    cold: Tensor


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What is scored and never trained on: `steps` batches, by number; the last may have fewer users."""

    batches: Callable[[int], Scored]
    steps: int


@dataclass(frozen=True, eq=False)
class Workload:
    """Items, texts or pictures, and batches of them by step.

    batches: step 0, 1, ... -> its batch; the same for the same seed and step whatever was asked before.
    steps_per_epoch: None where there is no such thing as an epoch. facts: what was realised, for the record.
    log: whether interactions were observed, or drawn at random.
    validation, test: where something is held out. cold_items: int64, sorted; they are in no training batch.
    """

    table: ItemSource
    batches: Callable[[int], Batch]
    steps_per_epoch: int | None
    facts: Mapping[str, Any]
    log: Literal["real", "synthetic"] = "real"
    validation: HeldOut | None = None
    test: HeldOut | None = None
    cold_items: Tensor = field(default_factory=_no_items)


def split(workload: str) -> tuple[str, str | None]:
    """The scheme and the argument of "scheme" or "scheme:argument": the registered name, and what it is asked for."""
    scheme, colon, argument = workload.partition(":")
    return scheme, argument if colon else None


def load(workload: str) -> ModuleType:
    """The module of "scheme" or "scheme:argument", imported; raises registry.UnknownName (a ValueError)."""
    return registry.load(PACKAGE, split(workload)[0])


def axes_of(case: Case, candidates: int, task: Task) -> Axes:
    """What a workload is asked whether it can be."""
    return Axes(
        batch_size=case.batch_size,
        history_length=case.history_length,
        text_length=case.text_length,
        item_repetition_ratio=case.item_repetition_ratio,
        candidates=candidates,
        task=task,
        argument=split(case.workload)[1],
    )


def batch_of(items: NDArray[Any], mask: NDArray[Any], targets: NDArray[Any], history_length: int) -> Batch:
    """The batch of these arrays."""
    import torch

    from gram_core.batch import Batch

    return Batch(torch.from_numpy(items), torch.from_numpy(mask), torch.from_numpy(targets), history_length)


def no_argument(scheme: str, argument: str | None) -> None:
    """Raises ValueError where a workload that takes no argument got one."""
    if argument is not None:
        raise ValueError(f'workload "{scheme}:{argument}": {scheme} takes no argument, write "{scheme}"')


def slots_per_user(history_length: int, candidates: int, task: Task) -> int:
    """S."""
    return history_length + (candidates if task == "ranking" else 0)
