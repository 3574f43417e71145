"""The two files of a log of one's own: items with texts, and interactions, read in chunks, whatever their size.

CSV (comma) and TSV (tab) as spreadsheets write them, with a header and in UTF-8; Parquet where pyarrow is installed.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import MalformedData
from bench.workloads._io import delimited, parquet
from bench.workloads._io.delimited import SEPARATORS
from bench.workloads._io.dropped import Dropped
from bench.workloads._io.times import Place, TimeReader, Times

PARQUET = ".parquet"
ITEM_COLUMNS = {"item_id": "name", "text": "text"}
INTERACTION_COLUMNS = {"user_id": "name", "item_id": "name", "timestamp": "time", "label": "number"}

EMPTY, UNKNOWN = -2, -1
"""Numbers of items without a text: theirs is empty, there is none."""


@dataclass(frozen=True)
class Interactions:
    """Some rows of the file: user and item ids as strings, times, labels float64 [n], and where each row is."""

    users: NDArray[Any]
    items: NDArray[Any]
    times: Times
    labels: NDArray[np.float64]
    place: Place

    def __len__(self) -> int:
        return len(self.labels)


def check_format(path: str, setting: str) -> None:
    """Raises ValueError for a file that cannot be read here."""
    suffix = Path(path).suffix.lower()
    if suffix == PARQUET:
        try:
            importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise ValueError(
                f'{setting}: reading {path} needs pyarrow, which is not installed: pip install "gram-bench[parquet]"'
            ) from error
    elif suffix not in SEPARATORS:
        raise ValueError(f"{setting}: {path} is none of {', '.join((*SEPARATORS, PARQUET))}")


def read_items(path: Path) -> tuple[dict[str, int], list[str], Dropped]:
    """Number of each item id (EMPTY where its text is), texts by number, and which rows were dropped.

    Raises MalformedData, naming the line, where an id comes with two texts.
    """
    numbers: dict[str, int] = {}
    texts: list[str] = []
    dropped = Dropped("item_rows")
    for place, (item, text) in _item_rows(path):
        text = text.strip()
        dropped.read += 1
        if item in numbers:
            known = texts[numbers[item]] if numbers[item] >= 0 else ""
            if known != text:
                raise MalformedData(f'{path}, {place}: item "{item}" comes again with another text')
            dropped.add("item row that comes again", 1, f'{place}, item_id "{item}"')
        elif not text:
            numbers[item] = EMPTY
            dropped.add("item with an empty text", 1, f'{place}, item_id "{item}"')
        else:
            numbers[item] = len(texts)
            texts.append(text)
    if not texts:
        raise MalformedData(f"{path}: there is no item with a text{dropped.why()}")
    return numbers, texts, dropped


def _item_rows(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    if path.suffix.lower() == PARQUET:
        for part in parquet.chunks(path, list(ITEM_COLUMNS), ITEM_COLUMNS):
            for row, pair in enumerate(zip(part.names("item_id"), part.texts("text"), strict=True)):
                yield part.place(row), pair
        return
    for chunk in delimited.chunks(path, list(ITEM_COLUMNS)):
        ids = _names(path, chunk, "item_id")
        for row, pair in enumerate(zip(ids, chunk.columns["text"], strict=True)):
            yield chunk.place(row), pair


def read_interactions(path: Path) -> Iterator[Interactions]:
    """Chunks of the file; raises MalformedData naming file and line."""
    times, rows = TimeReader(path), 0
    for part in _interaction_chunks(path, times):
        rows += len(part)
        yield part
    times.finish()
    if rows == 0:
        raise MalformedData(f"{path}: there is no interaction")


def _interaction_chunks(path: Path, times: TimeReader) -> Iterator[Interactions]:
    if path.suffix.lower() == PARQUET:
        for part in parquet.chunks(path, list(INTERACTION_COLUMNS), INTERACTION_COLUMNS):
            users, items = part.names("user_id"), part.names("item_id")
            found, labels = part.times("timestamp", times), _labels(path, part.numbers("label"), part.place)
            yield Interactions(users, items, found, labels, part.place)
        return
    for chunk in delimited.chunks(path, list(INTERACTION_COLUMNS)):
        users, items = _names(path, chunk, "user_id"), _names(path, chunk, "item_id")
        found = times.texts(chunk.columns["timestamp"], chunk.place)
        labels = _labels(path, np.asarray(chunk.columns["label"], dtype=object), chunk.place)
        yield Interactions(users, items, found, labels, chunk.place)


def _names(path: Path, chunk: delimited.TextChunk, column: str) -> NDArray[Any]:
    names = np.asarray(chunk.columns[column], dtype=object)
    if (empty := np.flatnonzero(names == "")).size:
        raise MalformedData(f"{path}, {chunk.place(int(empty[0]))}: there is no {column}")
    return names


def _labels(path: Path, values: NDArray[Any], place: Place) -> NDArray[np.float64]:
    import pandas as pd

    labels = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(dtype=np.float64)
    if (bad := np.flatnonzero(~np.isfinite(labels))).size:
        row = int(bad[0])
        wrong = f'the label "{values[row]}" is not a number' if values[row] != "" else "there is no label"
        raise MalformedData(f"{path}, {place(row)}: {wrong}")
    return labels


class Numbers:
    """Numbers of names, in the order of their coming."""

    def __init__(self, known: dict[str, int] | None = None):
        self.known = {} if known is None else known

    def of(self, names: NDArray[Any], *, grow: bool) -> NDArray[np.int64]:
        """Of names [n]; a new one gets the next number, or UNKNOWN where the names may not grow."""
        import pandas as pd

        places, distinct = pd.factorize(names)
        if grow:
            numbers = [self.known.setdefault(name, len(self.known)) for name in distinct]
        else:
            numbers = [self.known.get(name, UNKNOWN) for name in distinct]
        return np.asarray(numbers, dtype=np.int64)[places]

    def name(self, number: int) -> str:
        """Whose number it is."""
        return next(name for name, known in self.known.items() if known == number)
