"""The two files of a log of one's own: items with texts, and interactions, read in chunks, whatever their size.

CSV (comma) and TSV (tab) as spreadsheets write them, with a header and in UTF-8; Parquet where pyarrow is installed.
"""

from __future__ import annotations

import csv
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import MalformedData
from bench.workloads._lines import lines

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
ITEM_COLUMNS = ("item_id", "text")
INTERACTION_COLUMNS = ("user_id", "item_id", "timestamp", "label")
CHUNK = 1 << 19
"""Rows read at once."""

EMPTY, UNKNOWN = -2, -1
"""Numbers of items without a text: theirs is empty, there is none."""


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


def read_items(path: Path) -> tuple[dict[str, int], list[str], Counter[str]]:
    """Number of each item id (EMPTY where its text is), texts by number, and how many rows were dropped, by reason.

    Raises MalformedData, naming the line, where an id comes with two texts.
    """
    numbers: dict[str, int] = {}
    texts: list[str] = []
    dropped: Counter[str] = Counter()
    for line, (item, text) in _item_rows(path):
        text = text.strip()
        if not item:
            raise MalformedData(f"{path}, {line}: there is no item_id")
        if item in numbers:
            known = texts[numbers[item]] if numbers[item] >= 0 else ""
            if known != text:
                raise MalformedData(f'{path}, {line}: item "{item}" comes again with another text')
            dropped["item row that comes again"] += 1
        elif not text:
            numbers[item] = EMPTY
            dropped["item with an empty text"] += 1
        else:
            numbers[item] = len(texts)
            texts.append(text)
    if not texts:
        raise MalformedData(f"{path}: there is no item with a text")
    return numbers, texts, dropped


def _item_rows(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    if path.suffix.lower() == PARQUET:
        row = 0
        for frame in _parquet(path, ITEM_COLUMNS):
            for item, text in zip(frame["item_id"], frame["text"], strict=True):
                row += 1
                yield f"row {row}", (_plain(item), _plain(text))
        return
    for line, fields in _csv_rows(path, ITEM_COLUMNS):
        yield f"line {line}", (fields[0], fields[1])


def _plain(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def _csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line and the asked-for fields of every row; raises MalformedData."""
    csv.field_size_limit(1 << 30)
    reader = csv.reader((text + "\n" for _, text in lines(path)), delimiter=SEPARATORS[path.suffix.lower()])
    header = next(reader, [])
    places = _places(path, header, columns)
    for fields in reader:
        if fields and len(fields) != len(header):
            raise MalformedData(f"{path}, line {reader.line_num}: expected {len(header)} fields, found {len(fields)}")
        if fields:
            yield reader.line_num, [fields[place] for place in places]


def _places(path: Path, header: list[str], columns: tuple[str, ...]) -> list[int]:
    if missing := [column for column in columns if column not in header]:
        raise MalformedData(
            f"{path}, line 1: expected the columns {', '.join(columns)}; {', '.join(missing)} is not among "
            f"{', '.join(header) or 'nothing'}"
        )
    return [header.index(column) for column in columns]


def read_interactions(path: Path) -> Iterator[pd.DataFrame]:
    """Chunks of the file: user_id and item_id strings, timestamp float64 in seconds or as it counts, label float64.

    Raises MalformedData naming file and line.
    """
    import pandas as pd

    row = 0
    for frame in _frames(path):
        frame = frame[list(INTERACTION_COLUMNS)].reset_index(drop=True)
        times, labels = _seconds(frame["timestamp"]), pd.to_numeric(frame["label"], errors="coerce").astype(np.float64)
        for column, values in (
            ("user_id", frame["user_id"]),
            ("item_id", frame["item_id"]),
            ("timestamp", times),
            ("label", labels),
        ):
            if (bad := np.flatnonzero(values.isna())).size:
                raise _unreadable(path, row + int(bad[0]), column, frame[column].iloc[bad[0]])
        yield frame.assign(timestamp=times, label=labels)
        row += len(frame)
    if row == 0:
        raise MalformedData(f"{path}: there is no interaction")


def _frames(path: Path) -> Iterator[pd.DataFrame]:
    import pandas as pd

    if path.suffix.lower() == PARQUET:
        for frame in _parquet(path, INTERACTION_COLUMNS):
            ids = {name: frame[name].map(_plain).replace("", None) for name in ("user_id", "item_id")}
            yield frame.assign(**ids)
        return
    header = next(csv.reader([next(lines(path), (1, ""))[1]], delimiter=SEPARATORS[path.suffix.lower()]), [])
    _places(path, header, INTERACTION_COLUMNS)
    try:
        with pd.read_csv(
            path,
            sep=SEPARATORS[path.suffix.lower()],
            chunksize=CHUNK,
            dtype={"user_id": object, "item_id": object},  # "007" and "7" are two; categories would be parsed
            keep_default_na=False,  # a user may be called NA
            na_values=[""],
            index_col=False,
            encoding="utf-8-sig",
        ) as chunks:
            yield from chunks
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        for _ in _csv_rows(path, INTERACTION_COLUMNS):  # finds the line, and raises
            pass
        raise MalformedData(f"{path}: {error}") from error


def _unreadable(path: Path, row: int, column: str, value: Any) -> MalformedData:
    """What is wrong with a row, counted from 0 without the header."""
    place = f"row {row + 1}"
    if path.suffix.lower() != PARQUET:
        place = next(
            f"line {line}" for number, (line, _) in enumerate(_csv_rows(path, INTERACTION_COLUMNS)) if number == row
        )
    if not _plain(value):
        return MalformedData(f"{path}, {place}: there is no {column}")
    kind = "a number, or a date such as 2024-05-17T08:30:00" if column == "timestamp" else "a number"
    return MalformedData(f'{path}, {place}: the {column} "{value}" is not {kind}')


def _seconds(column: pd.Series) -> pd.Series:
    """Numbers as they are, dates in seconds since 1970, NaN what is neither."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    if not numbers.isna().any():
        return numbers
    dates = pd.to_datetime(column.astype(str), errors="coerce", utc=True, format="ISO8601")
    seconds = (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return numbers.fillna(seconds)


def _parquet(path: Path, columns: tuple[str, ...]) -> Iterator[pd.DataFrame]:
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            _places(path, list(file.schema_arrow.names), columns)
            for batch in file.iter_batches(batch_size=CHUNK, columns=list(columns)):
                yield batch.to_pandas()
    except (OSError, importlib.import_module("pyarrow").ArrowException) as error:
        raise MalformedData(f"{path}: no Parquet file that can be read ({error})") from error


class Numbers:
    """Numbers of names, in the order of their coming."""

    def __init__(self, known: dict[str, int] | None = None):
        self.known = {} if known is None else known

    def of(self, column: pd.Series, *, grow: bool) -> NDArray[np.int64]:
        """Of a column of names [n]; a new one gets the next number, or UNKNOWN where the names may not grow."""
        import pandas as pd

        places, names = pd.factorize(column)
        if grow:
            numbers = [self.known.setdefault(name, len(self.known)) for name in names]
        else:
            numbers = [self.known.get(name, UNKNOWN) for name in names]
        return np.asarray(numbers, dtype=np.int64)[places]
