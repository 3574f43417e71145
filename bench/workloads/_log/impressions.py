"""Impressions as arrays that stay on disk: what a reader had read, what was shown, and what of it was clicked.

n impressions, B of them in a batch, H history slots, C candidates, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import Scored, batch_of
from bench.workloads._sampling.negatives import distinct

if TYPE_CHECKING:
    from gram_core.batch import Batch

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_FILES = ("history", "shown", "clicked")


@dataclass(frozen=True, eq=False)
class Impressions:
    """Ragged: impression k read `history[history_starts[k]:history_starts[k + 1]]`, likewise `shown` and `clicked`.

    starts int64 [n + 1]; history, shown int32: items; clicked bool, like `shown`.
    """

    history_starts: Ints
    shown_starts: Ints
    history: NDArray[np.int32]
    shown: NDArray[np.int32]
    clicked: Bools

    def of(self, places: Ints) -> Ints:
        """Whose impressions these places of `shown` are of."""
        return np.searchsorted(self.shown_starts, places, side="right") - 1


class ImpressionWriter:
    """Writes impressions one by one; `read` opens them."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self._folder = folder
        self._lengths: list[tuple[int, int]] = []
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in _FILES}

    def append(self, history: list[int], shown: list[int], clicked: list[bool]) -> None:
        """One impression."""
        self._lengths.append((len(history), len(shown)))
        for name, values, dtype in zip(_FILES, (history, shown, clicked), (np.int32, np.int32, np.bool_), strict=True):
            self._files[name].write(np.asarray(values, dtype=dtype).tobytes())

    def finish(self) -> None:
        """Writes where each impression starts."""
        for file in self._files.values():
            file.close()
        lengths = np.asarray(self._lengths, dtype=np.int64).reshape(-1, 2)
        np.save(self._folder / "starts.npy", np.hstack([np.zeros((2, 1), np.int64), lengths.T.cumsum(1)]))


def read(folder: Path) -> Impressions:
    """The impressions of a folder, memory-mapped."""
    history_starts, shown_starts = np.load(folder / "starts.npy", mmap_mode="r")

    def array(name: str, dtype: type) -> np.ndarray:
        path = folder / f"{name}.bin"
        return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)

    return Impressions(
        history_starts, shown_starts, array("history", np.int32), array("shown", np.int32), array("clicked", np.bool_)
    )


def training_batch(
    log: Impressions, clicks: Ints, history_length: int, candidates: int, cold: Bools, rng: np.random.Generator
) -> Batch:
    """One row per click (a place of `shown`), among `candidates` - 1 items that its impression showed in vain.

    Where it showed fewer, slots stay empty. cold [I]: items that leave gaps in history and candidates.
    """
    rows = log.of(clicks)
    history, history_mask = _histories(log, rows, history_length)
    shown = np.zeros((len(clicks), candidates), dtype=np.int64)
    mask = np.zeros(shown.shape, dtype=bool)
    shown[:, 0], mask[:, 0] = log.shown[clicks], True
    places, there = _shown(log, rows)
    vain = there & ~log.clicked[places] & ~cold[log.shown[places]]
    drawn = distinct(rng, vain.sum(axis=1), candidates - 1)
    mask[:, 1:] = drawn >= 0
    in_vain = np.argsort(~vain, axis=1, kind="stable")  # a row's places in vain come first, in their order
    chosen = np.take_along_axis(places, np.take_along_axis(in_vain, drawn.clip(0), axis=1), axis=1)
    shown[:, 1:] = np.where(mask[:, 1:], log.shown[chosen], 0)
    clicked = rng.integers(candidates, size=len(clicks))
    at = np.arange(len(clicks))
    for values in (shown, mask):
        values[at, clicked], values[:, 0] = values[:, 0].copy(), values[at, clicked]
    items = np.concatenate([history, shown], axis=1)
    known = np.concatenate([history_mask & ~cold[history], mask], axis=1)
    return batch_of(items, known, clicked, history_length)


def scored_batch(log: Impressions, clicks: Ints, history_length: int, cold: Bools) -> Scored:
    """One row per click, among all that its impression showed in vain, in the order shown.

    Candidates that are not as cold as the click are hidden. C is that of the widest impression.
    """
    import torch

    rows = log.of(clicks)
    history, history_mask = _histories(log, rows, history_length)
    is_cold = cold[log.shown[clicks]]
    places, there = _shown(log, rows)
    shown = log.shown[places].astype(np.int64)
    is_target = places == clicks[:, None]
    mask = there & (is_target | ~log.clicked[places]) & (cold[shown] == is_cold[:, None])
    known = np.concatenate([history_mask, mask], axis=1)
    items = np.where(known, np.concatenate([history, shown], axis=1), 0)
    return Scored(batch_of(items, known, (is_target & there).argmax(1), history_length), torch.from_numpy(is_cold))


def _shown(log: Impressions, rows: Ints) -> tuple[Ints, Bools]:
    """Places of what these impressions showed [B, W], W of the widest of them, and which of them there are."""
    starts = log.shown_starts[rows]
    widths = log.shown_starts[rows + 1] - starts
    there = np.arange(widths.max()) < widths[:, None]
    return np.where(there, starts[:, None] + np.arange(widths.max()), 0), there


def _histories(log: Impressions, rows: Ints, length: int) -> tuple[Ints, Bools]:
    """The last `length` items read before these impressions [B, H], and their mask; padding is on the left."""
    places = log.history_starts[rows + 1][:, None] + np.arange(-length, 0)
    mask = places >= log.history_starts[rows][:, None]
    if not len(log.history):
        return np.zeros(places.shape, dtype=np.int64), mask
    return np.where(mask, log.history[np.where(mask, places, 0)], 0).astype(np.int64), mask
