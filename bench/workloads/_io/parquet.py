"""Parquet by its Arrow schema: a column's type is asked before a value is read, and nulls before any is converted."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import MalformedData
from bench.workloads._io.delimited import places_of
from bench.workloads._io.times import TimeReader, Times, of_counts, per_second

CHUNK = 1 << 19
"""Rows read at once."""

DAY_S = 86_400


@dataclass(frozen=True)
class ParquetChunk:
    """Some rows' Arrow arrays, column by column, and what each row is called."""

    path: Path
    columns: dict[str, Any]
    place: Callable[[int], str]

    def names(self, column: str) -> NDArray[Any]:
        """Ids as strings [n], none of them null or empty."""
        self.refuse_nulls(column)
        texts = self._texts(column)
        if (empty := np.flatnonzero(texts == "")).size:
            raise MalformedData(f"{self.path}, {self.place(int(empty[0]))}: there is no {column}")
        return texts

    def texts(self, column: str) -> NDArray[Any]:
        """Strings [n]; a null is an empty one."""
        texts = self._texts(column)
        texts[self.columns[column].is_null().to_numpy(zero_copy_only=False)] = ""
        return texts

    def times(self, column: str, reader: TimeReader) -> Times:
        """Times, each exactly as it is stored."""
        pyarrow = importlib.import_module("pyarrow")
        array, kinds = self.columns[column], pyarrow.types
        self.refuse_nulls(column)
        if kinds.is_timestamp(array.type):
            counts = array.cast(pyarrow.int64()).to_numpy()
            return of_counts(counts, per_second(array.type.unit))
        if kinds.is_date32(array.type):
            return of_counts(array.cast(pyarrow.int32()).to_numpy().astype(np.int64) * DAY_S, 1)
        if kinds.is_date64(array.type):
            return of_counts(array.cast(pyarrow.int64()).to_numpy(), per_second("ms"))
        if kinds.is_integer(array.type):
            return reader.numbers(self._cast(column, pyarrow.int64()).to_numpy(), self.place)
        if kinds.is_floating(array.type):
            return reader.numbers(array.to_numpy().astype(np.float64), self.place)
        return reader.texts(self._texts(column).tolist(), self.place)

    def numbers(self, column: str) -> NDArray[Any]:
        """Numbers [n], or the strings that are to be such."""
        pyarrow = importlib.import_module("pyarrow")
        array, kinds = self.columns[column], pyarrow.types
        self.refuse_nulls(column)
        if kinds.is_boolean(array.type) or kinds.is_integer(array.type) or kinds.is_decimal(array.type):
            found: NDArray[Any] = self._cast(column, pyarrow.float64(), safe=False).to_numpy()
            return found
        if kinds.is_floating(array.type):
            return np.asarray(array.to_numpy(), dtype=np.float64)
        return self._texts(column)

    def refuse_nulls(self, column: str) -> None:
        """Raises MalformedData naming the first row without a value."""
        array = self.columns[column]
        if array.null_count:
            row = int(array.is_null().to_numpy(zero_copy_only=False).argmax())
            raise MalformedData(f"{self.path}, {self.place(row)}: there is no {column}")

    def _texts(self, column: str) -> NDArray[Any]:
        """As Python strings [n], None for nulls."""
        pyarrow = importlib.import_module("pyarrow")
        return np.asarray(self._cast(column, pyarrow.large_string()).to_pylist(), dtype=object)

    def _cast(self, column: str, to: Any, **options: Any) -> Any:
        pyarrow = importlib.import_module("pyarrow")
        array = self.columns[column]
        try:
            return array.cast(to, **options)
        except pyarrow.ArrowInvalid as error:
            for row, value in enumerate(array.to_pylist()):
                try:
                    pyarrow.array([value], type=array.type).cast(to, **options)
                except pyarrow.ArrowInvalid as one:
                    raise MalformedData(
                        f"{self.path}, {self.place(row)}: the {column} cannot be read ({one})"
                    ) from error
            raise MalformedData(f"{self.path}: the column {column} cannot be read ({error})") from error


def chunks(path: Path, columns: Sequence[str], roles: dict[str, str]) -> Iterator[ParquetChunk]:
    """The asked-for columns of all rows; roles: "name", "text", "time" or "number" of each.

    Raises MalformedData naming the file and the row, or the column whose type is none for its role.
    """
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    with _readable(path), parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        places_of(str(path), list(schema.names), columns)
        for column in columns:
            _check_type(path, column, schema.field(column).type, roles[column])
        before = 0
        for batch in file.iter_batches(batch_size=CHUNK, columns=list(columns)):
            arrays = {column: _plain(pyarrow, batch.column(column)) for column in columns}
            yield ParquetChunk(path, arrays, _numbered(before))
            before += batch.num_rows


def _numbered(before: int) -> Callable[[int], str]:
    return lambda row: f"row {before + row + 1}"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    pyarrow = importlib.import_module("pyarrow")
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise MalformedData(f"{path}: no Parquet file that can be read ({error})") from error


def _plain(pyarrow: Any, array: Any) -> Any:
    return array.dictionary_decode() if pyarrow.types.is_dictionary(array.type) else array


_WANTED = {
    "name": "text or a whole number",
    "text": "text",
    "time": "a number, a date or text",
    "number": "a number or text",
}


def _check_type(path: Path, column: str, found: Any, role: str) -> None:
    """Raises MalformedData for a column of a type that is none for its role."""
    kinds = importlib.import_module("pyarrow").types
    value = found.value_type if kinds.is_dictionary(found) else found
    text = any(
        getattr(kinds, f"is_{kind}", lambda _: False)(value)
        for kind in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")
    )
    number = kinds.is_integer(value) or kinds.is_floating(value) or kinds.is_decimal(value)
    fits = {
        "name": text or kinds.is_integer(value),
        "text": text,
        "time": text or number or kinds.is_timestamp(value) or kinds.is_date(value),
        "number": text or number or kinds.is_boolean(value),
    }
    if not fits[role]:
        raise MalformedData(f"{path}: the column {column} is of type {found}; expected {_WANTED[role]}")
