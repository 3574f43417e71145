"""`pictures`: random pixels or handwritten digits, and batches whose item repetition ratio is the one asked for.

Batches are drawn as `synthetic` draws them. Pictures are bytes, of the size that the encoder reads; only those of a
call are read.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.configuration.values import Table
from bench.inputs import assets
from bench.workloads._base import Axes, Task, Workload, WorkloadRequest
from bench.workloads._sampling import drawn_batches

if TYPE_CHECKING:
    from bench.encoders._base import PictureFormat

ASSETS: tuple[str, ...] = ()
TAKES_REPETITION_RATIO = True
HOLDS_OUT = False
PICTURES = True

NOISE_ITEMS, DIGITS = 20_000, 5_000
DIGIT_SIZE = 28
_PIXELS = 0
"""Stream of random numbers under the request's seed; 1 is that of batches."""
_SHIFT = 509
"""Bytes of the noise between the beginnings of two pictures: no multiple of any row or patch, so that no two share a
patch."""


class Settings(Table):
    """`[workload.pictures]`."""

    source: Literal["noise", "digits"] = "noise"
    """noise: random pixels. digits: handwritten ones of MNIST, enlarged to what the encoder reads, in grey."""
    items: Annotated[int, Field(ge=1)] | None = None
    """Items of the catalogue; None takes 20,000 of noise, and all 5,000 digits."""
    zipf: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Exponent of popularity, within a batch and from batch to batch; 0 is uniform."""
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = None
    """What "1E" of accumulation_steps means."""

    @property
    def catalogue(self) -> int:
        """Items of the catalogue."""
        return self.items or (DIGITS if self.source == "digits" else NOISE_ITEMS)


def check(settings: Settings, axes: Axes) -> None:
    """Raises ValueError, naming the bound, where no batch has the asked-for ratio or there are not so many digits."""
    if settings.source == "digits" and settings.catalogue > DIGITS:
        raise ValueError(f"workload.pictures.items = {settings.items}: there are {DIGITS:,} digits; lower it")
    drawn_batches.check("pictures", settings.catalogue, axes)


def contents(settings: Settings, argument: str | None) -> dict[str, Path | str]:
    """Its settings, and the digits where items are some."""
    digits = assets.files_of("digits") if settings.source == "digits" else {}
    return {"settings": settings.model_dump_json(), **digits}


def prepare(settings: Settings, *, argument: str | None, task: Task, say: Callable[[str], None]) -> None:
    """Has the digits in the cache where they are asked for."""
    if settings.source == "digits":
        assets.fetch("digits", say)


def build(settings: Settings, request: WorkloadRequest) -> Workload:
    """Item 0 is the most popular of the catalogue. Raises ValueError as `check` does, `AssetError` where
    the digits cannot be had."""
    from gram_core.item_sources import IndexedItems

    check(settings, request)
    picture, items = request.picture, settings.catalogue
    if picture is None:
        raise ValueError("the workload pictures needs an encoder of pictures")
    batches, ratio = drawn_batches.batches(items, settings.zipf, request)
    if settings.source == "noise":
        pixels = noise(items, picture, np.random.default_rng([request.seed, _PIXELS]))
    else:
        pixels = enlarged(digits(assets.fetch("digits"))[:items], picture)
    facts = {
        "items": items,
        "zipf": settings.zipf,
        "pictures": settings.source,
        "pixels": " x ".join(map(str, pixels.shape[1:])),
        "tokens_per_picture": picture.tokens,
        "asked_item_repetition_ratio": request.item_repetition_ratio,
        "item_repetition_ratio": ratio,
    }
    table = IndexedItems(pixels, picture.tokens)
    return Workload(table, batches, settings.steps_per_epoch, facts, "synthetic")


def noise(items: int, picture: PictureFormat, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random pixels [items, channels, size, size]: windows of one sequence of random bytes, which a catalogue of any
    size needs little of."""
    shape = (picture.channels, picture.size, picture.size)
    size = int(np.prod(shape))
    drawn = np.frombuffer(rng.bytes((items - 1) * _SHIFT + size), dtype=np.uint8)
    strides = (_SHIFT, picture.size * picture.size, picture.size, 1)
    return np.lib.stride_tricks.as_strided(drawn, (items, *shape), strides, writeable=False)


def digits(folder: Path) -> NDArray[np.uint8]:
    """The pictures [5000, 28, 28] of the asset: a row of the file holds one's pixels, and which digit it is."""
    with gzip.open(folder / "mnist_5k.csv.gz", "rb") as stream:
        rows = np.loadtxt(stream, delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, DIGIT_SIZE, DIGIT_SIZE)


def enlarged(grey: NDArray[np.uint8], picture: PictureFormat) -> NDArray[np.uint8]:
    """Grey pictures [I, h, w] as [I, 1, size, size], each pixel repeated."""
    rows = np.arange(picture.size) * grey.shape[1] // picture.size
    columns = np.arange(picture.size) * grey.shape[2] // picture.size
    return np.ascontiguousarray(grey[:, rows][:, :, columns])[:, None]
