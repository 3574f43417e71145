"""Times of a log as they are ordered and compared: whole units and the part of one beyond, exact to the nanosecond.

A time is a number as it counts, or a date. A file has one kind, and numbers that are one unit's: seconds in some rows
and milliseconds in others would order wrongly without a word.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import MalformedData

TIME = np.dtype([("whole", np.int64), ("fraction", np.float64)])
Times = NDArray[np.void]
Place = Callable[[int], str]

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
CENTURY = 946_684_800, 4_102_444_800
"""2000 to 2100 in seconds since 1970: what a number must be in some unit to be taken for a date."""
STRAY = 0.01
"""Share of numbers that may lie in no unit's century, such as 0 where a time is unknown, while the others are dates."""
LARGEST = 2**63 - 1


def of_numbers(values: NDArray[Any]) -> Times:
    """Times of finite numbers [n] below 2^63; a float64 keeps all that it knows."""
    times = np.zeros(len(values), dtype=TIME)
    whole = np.floor(values) if values.dtype.kind == "f" else values
    times["whole"] = whole
    if values.dtype.kind == "f":
        times["fraction"] = values - whole
    return times


def of_counts(counts: NDArray[np.int64], per_second: int) -> Times:
    """Times in seconds of whole numbers [n] of a smaller unit."""
    times = np.zeros(len(counts), dtype=TIME)
    times["whole"], rest = np.divmod(counts, per_second)
    times["fraction"] = rest / per_second
    return times


class TimeReader:
    """Reads a file's times part by part; `finish` refuses a file whose numbers count in two units."""

    def __init__(self, path: Path):
        self._path = path
        self._kinds: dict[str, str] = {}
        self._units: dict[str, str] = {}
        self._numbers = self._stray = 0

    def texts(self, texts: Sequence[str], place: Place) -> Times:
        """Of numbers or ISO dates as they are written; raises MalformedData naming the row."""
        import pandas as pd

        column = pd.Series(texts, dtype=object)
        if (empty := np.flatnonzero(column == "")).size:
            raise MalformedData(f"{self._path}, {place(int(empty[0]))}: there is no timestamp")
        numbers = pd.to_numeric(column, errors="coerce")
        if numbers.dtype == np.int64:
            return self.numbers(numbers.to_numpy(), place)
        dated = numbers.isna().to_numpy()
        if not dated.any():
            return self._decimals(texts, place)
        dates = pd.to_datetime(column.where(dated), errors="coerce", utc=True, format="ISO8601")
        bad = np.flatnonzero(dates.isna().to_numpy() & dated)
        if bad.size:
            raise self._neither(texts[bad[0]], place(int(bad[0])))
        self._kind("a date", int(dated.argmax()), texts, place)
        if not dated.all():
            self._kind("a number", int((~dated).argmax()), texts, place)
        return of_counts(dates.astype(np.int64).to_numpy(), UNITS[_LONG[dates.dt.unit]])

    def numbers(self, values: NDArray[Any], place: Place) -> Times:
        """Of numbers; raises MalformedData naming the row of one that is none, or too large to be counted."""
        if values.dtype.kind == "f" and (bad := np.flatnonzero(~(np.abs(values) < float(LARGEST)))).size:
            raise self._neither(values[bad[0]], place(int(bad[0])))
        times = of_numbers(values)
        self._note(times["whole"], place)
        return times

    def finish(self) -> None:
        """Raises MalformedData where numbers are dates in more than one unit."""
        if len(self._units) > 1 and self._stray <= STRAY * self._numbers:
            found = " and ".join(f"{example} in {unit}" for unit, example in self._units.items())
            raise MalformedData(f"{self._path}: timestamps count in several units, {found}; write all in one")

    def _decimals(self, texts: Sequence[str], place: Place) -> Times:
        """Digits beyond a float64's are kept."""
        times = np.zeros(len(texts), dtype=TIME)
        for row, text in enumerate(texts):
            try:
                value = Decimal(text)
            except InvalidOperation:
                raise self._neither(text, place(row)) from None
            if not value.is_finite() or abs(value) > LARGEST:
                raise self._neither(text, place(row))
            whole = int(value // 1) - (value < 0 and value % 1 != 0)
            times[row] = whole, float(value - whole)
        self._note(times["whole"], place)
        return times

    def _note(self, whole: NDArray[np.int64], place: Place) -> None:
        """Which units numbers would be dates in."""
        self._numbers += len(whole)
        self._stray += len(whole)
        for unit, factor in UNITS.items():
            inside = (whole >= CENTURY[0] * factor) & (whole < CENTURY[1] * factor)
            self._stray -= int(inside.sum())
            if inside.any():
                row = int(inside.argmax())
                self._units.setdefault(unit, f"{whole[row]} ({place(row)})")
        if len(whole):
            self._kind("a number", 0, whole, place)

    def _kind(self, kind: str, row: int, values: Sequence[Any] | NDArray[Any], place: Place) -> None:
        here = f'"{values[row]}" ({place(row)})'
        self._kinds.setdefault(kind, here)
        if len(self._kinds) > 1:
            (first, one), (second, other) = self._kinds.items()
            raise MalformedData(
                f"{self._path}, {place(row)}: the timestamp {one} is {first} and {other} {second}; write all as one"
            )

    def _neither(self, value: Any, place: str) -> MalformedData:
        return MalformedData(
            f'{self._path}, {place}: the timestamp "{value}" is not a number, or a date such as 2024-05-17T08:30:00'
        )


_LONG = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def per_second(unit: str) -> int:
    """How many of a unit ("s", "ms", "us", "ns") a second has."""
    return UNITS[_LONG[unit]]
