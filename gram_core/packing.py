"""Packing ragged texts for an encoder that computes real tokens only: no text is padded.

Built on the host with fixed capacities, so that one captured graph serves every batch that fits: the tokens
left over are one or more dummy texts that nobody reads.

T tokens capacity, n texts capacity, G groups capacity; all tensors int32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gram_core.batch import Texts
from gram_core.small_numbers import stable_order

WALKING = 64
"""Tokens of a tile that walks over texts longer than it."""


@dataclass(frozen=True, eq=False)
class PackedTexts:
    """Texts laid out one behind the other.

    tokens [T]: token ids; positions [T]: 0, 1, ... within each text, 0 in dummies;
    text_of [T]: each token's text, numbers from n on for dummies;
    offsets [n + 1]: where each text starts, empty texts at the end;
    groups: for tiles that hold whole texts, [G + 1], where each group of texts starts, at most a tile apart, covering
    all T; for tiles that walk over longer texts, [2 G], the first token of each tile's texts and the one behind them.
    """

    tokens: Tensor
    positions: Tensor
    text_of: Tensor
    offsets: Tensor
    groups: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """The five, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def to(self, device: torch.device | str) -> PackedTexts:
        """These texts on `device`."""
        return PackedTexts(*(tensor.to(device, non_blocking=True) for tensor in self.tensors()))


def group_capacity(tokens: int, block: int) -> int:
    """Groups that any packing of `tokens` needs at most: two neighbours together exceed a block."""
    return 2 * (tokens // block) + 2


def walking_tiles(tokens: int) -> int:
    """Tiles of WALKING tokens that cover so many."""
    return -(-tokens // WALKING)


def pack(
    texts: Texts,
    block: int | None,
    pad_token_id: int,
    token_capacity: int | None = None,
    text_capacity: int | None = None,
) -> PackedTexts:
    """Lays texts out for tiles of `block` tokens, filled up to the capacities (None: just what there is).

    block: None for texts longer than any tile, over which tiles of WALKING tokens walk.

    Raises ValueError where a text is longer than a block or the texts exceed a capacity.
    """
    real, n = len(texts.tokens), len(texts)
    tokens = token_capacity or real
    rows = text_capacity or n
    longest = int(texts.lengths.max()) if n else 0
    if block is not None and longest > block:
        raise ValueError(f"a text of {longest} tokens does not fit a tile of {block}")
    if real > tokens or n > rows:
        raise ValueError(f"{n} texts of {real} tokens exceed a capacity of {rows} texts of {tokens} tokens")
    spare = tokens - real
    tile = block or WALKING
    dummies = [tile] * (spare // tile) + ([spare % tile] if spare % tile else [])
    lengths = np.concatenate([texts.lengths.numpy(), np.array(dummies, dtype=np.int64)])
    starts = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=starts[1:])
    numbers = np.arange(len(lengths), dtype=np.int32)
    numbers[n:] += rows - n
    positions = np.arange(tokens, dtype=np.int32)
    positions[real:] = 0  # dummies may be longer than the model has positions for
    positions[:real] -= np.repeat(starts[:n], lengths[:n])
    ids = np.full(tokens, pad_token_id, dtype=np.int32)
    ids[:real] = texts.tokens.numpy()
    offsets = np.full(rows + 1, real, dtype=np.int32)
    offsets[: n + 1] = starts[: n + 1]
    groups = _spans(starts, tokens) if block is None else _groups(lengths.tolist(), tokens, block)
    return PackedTexts(*map(torch.from_numpy, (ids, positions, np.repeat(numbers, lengths), offsets, groups)))


def _spans(starts: NDArray[np.int32], tokens: int) -> NDArray[np.int32]:
    first = np.arange(0, tokens, WALKING)
    last = np.minimum(first + WALKING, tokens) - 1
    begin = starts[np.searchsorted(starts, first, side="right") - 1]
    end = starts[np.searchsorted(starts, last, side="right")]
    return np.stack([begin, end], 1).reshape(-1)


def _groups(lengths: list[int], tokens: int, block: int) -> NDArray[np.int32]:
    groups = np.full(group_capacity(tokens, block) + 1, tokens, dtype=np.int32)
    bounds = _group_starts(lengths, block)
    groups[: len(bounds)] = bounds
    return groups


def _group_starts(lengths: list[int], block: int) -> list[int]:
    """Token at which each group starts: texts join a group in order while they fit its tile."""
    starts, held, position = [0], 0, 0
    for length in lengths:
        if held + length > block:
            starts.append(position)
            held = 0
        held += length
        position += length
    return starts


@dataclass(frozen=True, eq=False)
class Readers:
    """Which slots read which encoding, forwards and backwards.

    slot_rows [m]: the row of each slot, negative for padding; slots [m]: slots sorted by the row they read,
    filled up with 0; offsets [n + 1]: where each row's readers start in `slots`.
    """

    slot_rows: Tensor
    slots: Tensor
    offsets: Tensor


def readers(slot_rows: Tensor, rows: int) -> Readers:
    """Inverts slot_rows [B, S] over `rows` encodings."""
    flat = np.maximum(slot_rows.numpy().reshape(-1), -1)
    numbered = flat + 1  # padding is 0: negative numbers would be sorted by two digits
    counts = np.bincount(numbered, minlength=rows + 1)
    padding = counts[0]
    slots = np.zeros(len(flat), dtype=np.int32)
    slots[: len(flat) - padding] = stable_order(torch.from_numpy(numbered)).numpy()[padding:]
    offsets = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(counts[1:], out=offsets[1:])
    return Readers(*map(torch.from_numpy, (flat.astype(np.int32), slots, offsets)))
