"""An interaction log as arrays that stay on disk: who met what, in which order, with which response.

U users, R interactions, I items. Written user by user, read through the file system's cache: 100 million interactions
take 500 MB on disk, and of these in memory what is being read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 3
"""Part of every key in the cache: another layout of these files, or another way of reading what they are made of, is
another log."""

Ints = NDArray[np.int64]
_ITEMS, _LABELS, _STARTS, _FIRSTS, _SIZES = "items.bin", "labels.bin", "starts.npy", "first_targets.npy", "sizes.json"


@dataclass(frozen=True, eq=False)
class InteractionLog:
    """Interactions user by user, each user's in order of time.

    starts int64 [U + 1]: where each user's begin; items int32 [R], of 0 .. item_count - 1; labels uint8 [R]: 1 for a
    click or a right response; first_targets int64 [U]: the user's first interaction that is one to be predicted, those
    before it are history only. item_count: I.
    """

    starts: Ints
    items: NDArray[np.int32]
    labels: NDArray[np.uint8]
    first_targets: Ints
    item_count: int

    @property
    def users(self) -> int:
        """U."""
        return len(self.starts) - 1

    @property
    def interactions(self) -> int:
        """Those to be predicted."""
        return int((self.starts[1:] - self.first_targets).sum())

    def users_of(self, places: Ints) -> Ints:
        """Whose interactions these are, [n]."""
        return np.searchsorted(self.starts, places, side="right") - 1

    def slots(self, places: Ints, users: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Items and mask at places [B, n] of `users` [B]; places before a user's first interaction hold nothing."""
        mask = places >= self.starts[users][:, None]
        return np.where(mask, self.items[places.clip(0)], 0).astype(np.int64), mask

    def items_of(self, user: int) -> Ints:
        """A user's different items, sorted."""
        return np.unique(self.items[self.starts[user] : self.starts[user + 1]]).astype(np.int64)


class LogWriter:
    """Writes a log into a folder, some users after the other; `read` opens it."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._items = (folder / _ITEMS).open("wb")
        self._labels = (folder / _LABELS).open("wb")
        self._lengths: list[Ints] = []
        self._earlier: list[Ints] = []

    def append(
        self, lengths: Ints, items: NDArray[np.int32], labels: NDArray[np.uint8], earlier: Ints | None = None
    ) -> None:
        """Users with so many interactions each [n], and all of these; earlier: how many of them are history only."""
        self._lengths.append(np.asarray(lengths, dtype=np.int64))
        self._earlier.append(np.zeros(len(lengths), np.int64) if earlier is None else earlier.astype(np.int64))
        np.ascontiguousarray(items, dtype=np.int32).tofile(self._items)
        np.ascontiguousarray(labels, dtype=np.uint8).tofile(self._labels)

    def finish(self, item_count: int) -> None:
        """Writes what the users' lengths come to."""
        lengths = np.concatenate([np.zeros(1, np.int64), *self._lengths])
        starts = np.cumsum(lengths)
        np.save(self._folder / _STARTS, starts)
        np.save(self._folder / _FIRSTS, starts[:-1] + np.concatenate([np.empty(0, np.int64), *self._earlier]))
        (self._folder / _SIZES).write_text(json.dumps({"item_count": item_count}), encoding="utf-8")

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._items.close()
        self._labels.close()


def read(folder: Path) -> InteractionLog:
    """The log of a folder, memory-mapped."""
    sizes: dict[str, Any] = json.loads((folder / _SIZES).read_text(encoding="utf-8"))
    return InteractionLog(
        np.load(folder / _STARTS, mmap_mode="r"),
        np.memmap(folder / _ITEMS, dtype=np.int32, mode="r"),
        np.memmap(folder / _LABELS, dtype=np.uint8, mode="r"),
        np.load(folder / _FIRSTS, mmap_mode="r"),
        sizes["item_count"],
    )
