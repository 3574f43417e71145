"""What methods keep from earlier steps, by item, and the steps that read it.

Kept are encodings, which are written over, or states of all of an item's tokens. They grow with the items touched and
not with the catalogue. n items asked for, T tokens of theirs, d width, I items of the catalogue; U unique items of the
batch, F of them fresh.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bench.methods import FEW_STEPS, UNCAPTURED
from gram_core.batch import PADDING_SLOT, Batch, ItemTable, Selection, unique_items
from gram_core.methods._base import MethodBase
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training

NEVER = -1
GROWTH = 1.5


class _KeptRows:
    """Rows [count, d], with room to grow, and where each item's begin; the index lies on the host."""

    def __init__(self, catalogue: int):
        self._place_of = torch.full((catalogue,), NEVER)
        self._forget()

    @property
    def nbytes(self) -> int:
        """What the rows take, room to grow included."""
        return 0 if self._rows is None else self._rows.nbytes

    def holds(self, items: Tensor) -> Tensor:
        """Of which of `items` [n] something is kept, bool [n]."""
        return self._place_of[items] != NEVER

    def _forget(self) -> None:
        self._place_of.fill_(NEVER)
        self._rows: Tensor | None = None
        self._count = 0


class KeptEncodings(_KeptRows):
    """Rows of width d by item; a row is written over when its item is encoded again.

    catalogue: I. device: where the rows lie; the index lies on the host.
    """

    def __init__(self, catalogue: int, device: torch.device):
        super().__init__(catalogue)
        self._device = device
        self._written_at = torch.full((catalogue,), NEVER)

    def __len__(self) -> int:
        return self._count

    def written_at(self, items: Tensor) -> Tensor:
        """The step at which each row of `items` [n] was written, int64 [n]; `NEVER` where there is none."""
        return self._written_at[items]

    def write(self, items: Tensor, encodings: Tensor, step: int = 0) -> None:
        """Keeps encodings [n, d] of `items` [n] (distinct), detached, as of this step."""
        new = items[self._place_of[items] == NEVER]
        self._place_of[new] = torch.arange(self._count, self._count + len(new))
        self._count += len(new)
        self._written_at[items] = step
        self._grow(encodings)
        assert self._rows is not None, "it has grown"
        self._rows[self._device_rows(items)] = encodings.detach()

    def read(self, items: Tensor) -> Tensor:
        """Encodings [n, d] of `items` [n], all of which are held; a copy without a graph."""
        assert self._rows is not None, "only what is held is read"
        return self._rows[self._device_rows(items)]

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint: items, rows in the same order, the steps they were written at."""
        items = torch.nonzero(self._place_of != NEVER).flatten()
        rows = torch.empty(0, 0) if self._rows is None else self.read(items)
        return {"items": items, "rows": rows, "written_at": self._written_at[items]}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Becomes what `state` was taken of."""
        self._forget()
        self._written_at.fill_(NEVER)
        items = state["items"].cpu()
        if len(items):
            self.write(items, state["rows"].to(self._device))
            self._written_at[items] = state["written_at"].cpu()

    def _grow(self, like: Tensor) -> None:
        capacity = 0 if self._rows is None else len(self._rows)
        if self._count > capacity:
            grown = torch.zeros(max(self._count, 2 * capacity), like.shape[1], device=self._device, dtype=like.dtype)
            if self._rows is not None:
                grown[:capacity] = self._rows
            self._rows = grown

    def _device_rows(self, items: Tensor) -> Tensor:
        return self._place_of[items].to(self._device, non_blocking=True)


class KeptStates(_KeptRows):
    """Rows of width d by item and token, in `dtype`, on `place`; the index lies on the host."""

    def __init__(self, table: ItemTable, dtype: torch.dtype, place: torch.device):
        super().__init__(len(table))
        self.dtype = dtype
        self._place = place
        self._lengths, self._most = table.lengths, len(table.tokens)

    def write(self, items: Tensor, states: Tensor) -> None:
        """Keeps states [T, d] of the tokens of `items` [n], one item behind the other; none of them is held yet."""
        ends = self._count + self._lengths[items].cumsum(0)
        self._place_of[items] = ends - self._lengths[items]
        count = self._count + len(states)
        rows = self._room_for(count, states.shape[1])
        rows[self._count : count] = states.to(self._place, self.dtype)
        self._count = count

    def read(self, items: Tensor) -> Tensor:
        """States [T, d] of the tokens of `items` [n], all of which are held, one item behind the other."""
        assert self._rows is not None, "only what is held is read"
        lengths = self._lengths[items]
        begins = lengths.cumsum(0) - lengths
        rows = torch.repeat_interleave(self._place_of[items] - begins, lengths) + torch.arange(int(lengths.sum()))
        return self._rows[rows.to(self._place, non_blocking=True)]

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint: items, and their rows in the same order."""
        held = torch.nonzero(self._place_of != NEVER).flatten()
        items = held[torch.argsort(self._place_of[held])]
        return {"items": items, "rows": torch.empty(0, 0) if self._rows is None else self._rows[: self._count]}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Becomes what `state` was taken of."""
        self._forget()
        items = state["items"].cpu()
        if len(items):
            self.write(items, state["rows"])

    def _room_for(self, count: int, width: int) -> Tensor:
        if self._rows is None or count > len(self._rows):
            room = min(self._most, max(count, int(GROWTH * count)))
            grown = torch.zeros(room, width, dtype=self.dtype, device=self._place)
            if self._rows is not None:
                grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        return self._rows


class Passes:
    """The items that each batch sent through the encoder, for as long as somebody holds the batch."""

    def __init__(self) -> None:
        self._items: WeakKeyDictionary[Batch, Tensor] = WeakKeyDictionary()

    def note(self, batch: Batch, items: Tensor) -> None:
        """`items` [n] have passed the encoder for this batch."""
        self._items[batch] = items

    def of(self, batches: Sequence[Batch]) -> list[Tensor]:
        """One tensor per batch; raises ValueError for one that was never stepped on: what it would need depends on
        the steps before it."""
        missing = sum(batch not in self._items for batch in batches)
        if missing:
            raise ValueError(f"{missing} of {len(batches)} batches have not been stepped on; step first, then ask")
        return [self._items[batch] for batch in batches]


class Keeping(MethodBase):
    """A method that keeps encodings, or states, of the items that it has met."""

    _kept: KeptEncodings | KeptStates

    def __init__(self, training: Training, settings: Any = None):
        super().__init__(training, settings)
        self._passes = Passes()

    @property
    def kept_bytes(self) -> int:
        """What is kept takes so much, on the device or on the host."""
        return self._kept.nbytes

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items that were encoded when these batches were stepped on."""
        return self._passes.of(batches)

    def state(self) -> dict[str, Tensor]:
        """What is kept: computed again, in other company, it would differ by rounding."""
        return self._kept.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on where `state` was taken."""
        self._kept.restore(state)


class PartlyFresh(Keeping, ABC):
    """A method that encodes some of a batch's unique items and reads the others from what it kept; a file of its own
    says which (`_fresh`)."""

    exactness: ClassVar[Exactness] = "stale"
    handicaps = (UNCAPTURED, FEW_STEPS)
    _kept: KeptEncodings

    def __init__(self, training: Training, settings: Any = None):
        super().__init__(training, settings)
        self._kept = KeptEncodings(len(training.table), training.device)
        self._generator = torch.Generator().manual_seed(torch.initial_seed())
        self._t = 0

    @abstractmethod
    def _fresh(self, items: Tensor) -> Tensor:
        """Which of `items` [U] are encoded at this step, bool [U]: all that nothing is kept of, at least."""

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        with phase("host"):
            selection = unique_items(batch)
            fresh = self._fresh(selection.items)
            self._passes.note(batch, selection.items[fresh])
        loss = partly_fresh_step(self.training, self._kept, selection, fresh, batch, self._t)
        self._t += 1
        return loss

    def state(self) -> dict[str, Tensor]:
        """What is kept, the step, and the generator that chooses."""
        return super().state() | {"t": torch.tensor(self._t), "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on where `state` was taken."""
        super().restore(state)
        self._t = int(state["t"])
        self._generator.set_state(state["generator"].cpu())


def partly_fresh_step(
    training: Training, kept: KeptEncodings, selection: Selection, fresh: Tensor, batch: Batch, step: int
) -> Tensor:
    """One optimizer step of encoder and CF module; returns the loss, detached.

    fresh: which of the selection's items are encoded now, bool [U]; `kept` holds the others, and the fresh ones
    afterwards, as of this step. What is read from `kept` gets no gradient.
    """
    with phase("host"):
        now, earlier = selection.items[fresh], selection.items[~fresh]
        place = torch.empty_like(selection.items)
        place[fresh] = torch.arange(len(now))
        place[~fresh] = torch.arange(len(now), len(now) + len(earlier))
        slot_rows = place[selection.slot_rows].masked_fill(selection.slot_rows < 0, PADDING_SLOT)
    parts = ([training.encode(now)] if len(now) else []) + ([kept.read(earlier)] if len(earlier) else [])
    loss = training.joint_step(torch.cat(parts), slot_rows, batch)
    if len(now):
        kept.write(now, parts[0], step)
    return loss
