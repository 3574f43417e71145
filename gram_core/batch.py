"""What one training step reads: item texts, item slots, and the deduplication of slots to unique items.

Shapes: B users, S = H + C slots per user (H history, C candidates), n texts, T real tokens packed,
U unique items, I items of the catalogue, L tokens per item. Everything here lives on the host until
`.to(device)`; nothing here needs a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gram_core.small_numbers import distinct

PADDING_SLOT = -1
"""Row index of a slot that holds no item (see `Selection.slot_rows`)."""


def offsets_of(lengths: Tensor) -> Tensor:
    """Offsets [n + 1] (starting with 0) of ragged rows with these lengths [n]."""
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


@dataclass(frozen=True, eq=False)
class Texts:
    """n texts, packed: `tokens` int64 [T] holds real tokens only, `lengths` int64 [n] says whose they are."""

    tokens: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def offsets(self) -> Tensor:
        """Where each text starts in `tokens`, int64 [n + 1]."""
        return offsets_of(self.lengths)

    def take(self, rows: Tensor) -> Texts:
        """The texts at `rows` [m], in that order, repeated where a row is; all on the host."""
        return _gathered(self.tokens, self.offsets, self.lengths, rows)

    def slice(self, start: int, stop: int) -> Texts:
        """Texts `start` to `stop`, without copying tokens."""
        first, last = int(self.lengths[:start].sum()), int(self.lengths[:stop].sum())
        return Texts(self.tokens[first:last], self.lengths[start:stop])

    def padded(self, length: int, pad_token_id: int) -> tuple[Tensor, Tensor]:
        """Token ids int64 [n, length] and their mask bool [n, length], True on real tokens."""
        mask = torch.arange(length, device=self.lengths.device) < self.lengths[:, None]
        ids = torch.full(mask.shape, pad_token_id, dtype=torch.int64, device=self.tokens.device)
        return ids.masked_scatter(mask, self.tokens), mask

    def to(self, device: torch.device | str) -> Texts:
        """These texts on `device`; asynchronous from pinned memory."""
        return Texts(self.tokens.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True))


def _gathered(tokens: Tensor, offsets: Tensor, lengths: Tensor, rows: Tensor) -> Texts:
    """The ragged `rows` [m] of packed tokens, in one indexed read."""
    chosen = rows.numpy()
    taken = lengths.numpy()[chosen]
    ends = np.cumsum(taken)
    places = np.repeat(offsets.numpy()[chosen] - (ends - taken), taken)
    places += np.arange(len(places))
    return Texts(torch.from_numpy(tokens.numpy()[places]), torch.from_numpy(taken))


def token_row(row: Any, item: int) -> Tensor:
    """The token ids of an item as int64 [L] on the host; raises TypeError, naming the item, for anything else."""
    try:
        found = torch.as_tensor(row)
    except (TypeError, ValueError, RuntimeError):  # texts, rows within the row, numbers beyond 64 bits
        found = None
    if found is None or found.dim() != 1 or (len(found) and not are_integers(found.dtype)):
        what = f"{str(row)[:60]!r} ({type(row).__name__})"
        raise TypeError(f"item {item} must be a list of token ids, whole numbers as a tokenizer gives them, not {what}")
    return found.to("cpu", torch.int64)


def are_integers(dtype: torch.dtype) -> bool:
    """Whether numbers of this dtype can be ids."""
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


class ItemTable:
    """The token ids of every item of a catalogue, ragged: `tokens` [T_all] and `offsets` [I + 1].

    Raises ValueError where an item has no token at all: an empty text still carries its encoder's
    special tokens, and an encoder has nothing to pool over zero tokens.
    """

    def __init__(self, tokens: Tensor, offsets: Tensor):
        lengths = offsets[1:] - offsets[:-1]
        if len(offsets) < 2 or int(offsets[0]) != 0 or int(offsets[-1]) != len(tokens):
            raise ValueError("offsets must start at 0, end at the number of tokens and span one item at least")
        if int(lengths.min()) < 1:
            item = int(torch.nonzero(lengths < 1)[0])
            raise ValueError(f"item {item} has no tokens; give empty texts their special tokens")
        self._texts = Texts(tokens.to(torch.int64), lengths.to(torch.int64))
        self._offsets = offsets.to(torch.int64)

    @classmethod
    def from_lists(cls, token_ids: Iterable[Sequence[int]]) -> ItemTable:
        """A table from one list, array or tensor of token ids per item; TypeError for what is none."""
        rows = [token_row(row, item) for item, row in enumerate(token_ids)]
        if not rows:
            raise ValueError("there are no items: give one list of token ids for each")
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return cls(torch.cat(rows), offsets_of(lengths))

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def tokens(self) -> Tensor:
        """All real tokens, int64 [T_all]."""
        return self._texts.tokens

    @property
    def offsets(self) -> Tensor:
        """Where each item's tokens start, int64 [I + 1]."""
        return self._offsets

    @property
    def lengths(self) -> Tensor:
        """Real tokens per item, int64 [I]."""
        return self._texts.lengths

    def texts(self, items: Tensor) -> Texts:
        """The texts of `items` [n], in that order."""
        return _gathered(self.tokens, self._offsets, self.lengths, items)

    take = texts
    """What every source of items has (`gram_core.protocols.ItemSource`)."""

    def truncated(self, text_length: int, closing_token_id: int | None = None) -> ItemTable:
        """At most `text_length` tokens per item; a cut text ends in `closing_token_id` where one is given."""
        lengths = self.lengths.clamp(max=text_length)
        offsets = offsets_of(lengths)
        shift = torch.repeat_interleave(self._offsets[:-1] - offsets[:-1], lengths)
        tokens = self.tokens[shift + torch.arange(int(offsets[-1]))]
        if closing_token_id is not None:
            tokens[offsets[1:][self.lengths > text_length] - 1] = closing_token_id
        return ItemTable(tokens, offsets)


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of users.

    items: int64 [B, S], the item in each slot: H history slots, then C candidates (C = 0 in knowledge tracing).
    mask: bool [B, S], True where a slot holds an item; `items` is ignored elsewhere.
    targets: what the CF module predicts: the clicked candidate int64 [B], or responses float [B, S].
    history_length: H.
    weight: this batch's part, a float [1], of the mean loss of all processes' batches joined; None where the process
    trains alone or looks it up (see `gram_core.distributed`).
    """

    items: Tensor
    mask: Tensor
    targets: Tensor
    history_length: int
    weight: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.items.shape != self.mask.shape or self.items.dim() != 2:
            raise ValueError(f"items {tuple(self.items.shape)} and mask {tuple(self.mask.shape)} must both be [B, S]")

    @property
    def users(self) -> int:
        """B."""
        return self.items.shape[0]

    @property
    def item_slots(self) -> int:
        """Slots that hold an item."""
        return int(self.mask.sum())

    def to(self, device: torch.device | str) -> Batch:
        """This batch on `device`, with the tensors that a subclass adds."""
        own = {part.name: getattr(self, part.name) for part in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in own.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Selection:
    """Which items get encoded for a batch, and which encoding each slot reads.

    items: int64 [n], the items to encode; slot_rows: int64 [B, S], the row of a slot's encoding among
    them, `PADDING_SLOT` where the slot holds no item; distinct: whether no item is encoded twice, so that several
    processes can share the work.
    """

    items: Tensor
    slot_rows: Tensor
    distinct: bool = False


def every_slot(batch: Batch) -> Selection:
    """One encoding per item slot, repeats included: what end-to-end training does."""
    items = _held(batch)
    return Selection(items, _in_slots(torch.arange(len(items)), batch))


def unique_items(batch: Batch) -> Selection:
    """One encoding per unique item, sorted by item id (so that any two ranks agree on the order)."""
    items, inverse = distinct(_held(batch))
    return Selection(items, _in_slots(inverse, batch), distinct=True)


def _held(batch: Batch) -> Tensor:
    """The items of the slots that hold one, in their order. Raises ValueError for a batch that is not on the host."""
    if batch.items.device.type != "cpu":
        raise ValueError(
            f"the batch lies on {batch.items.device}: hand it over on the host, where its items are deduplicated; a "
            "step moves what it needs"
        )
    return torch.from_numpy(batch.items.numpy()[batch.mask.numpy()])


def _in_slots(rows: Tensor, batch: Batch) -> Tensor:
    """`rows` of the slots that hold an item, in their order, as int64 [B, S]."""
    slots = np.full(batch.items.shape, PADDING_SLOT, dtype=np.int64)
    slots[batch.mask.numpy()] = rows.numpy()
    return torch.from_numpy(slots)


def mapped(slot_rows: Tensor, rows: Tensor) -> Tensor:
    """slot_rows [B, S] into other rows: `rows` [n] says where each went; padding stays padding."""
    found = np.append(rows.numpy(), PADDING_SLOT)  # which -1 reads
    return torch.from_numpy(found[slot_rows.numpy()])
