"""Lines of several processes beside the same line of one: how many times its users they train in a second."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.results.identity import Line, line_of
from reports import numbers

Row = Mapping[Any, Any]


def alone(row: Row, by_line: Mapping[Line, Row]) -> Row | None:
    """The row of one process that has the case, engine and method of `row`."""
    line = line_of(row)
    return by_line.get(replace(line, setting=line.setting.but(deduplicate="local", world_size=1)))


def ratio(row: Row | None, other: Row | None, name: str) -> float | None:
    """`name` of the one row over that of the other; None where either has none."""
    if row is None or other is None or not numbers.exists(row[name]) or not numbers.exists(other[name]):
        return None
    return float(row[name] / other[name])


def scatter(row: Row, other: Row | None) -> float | None:
    """Of the ratio of the two lines' times, relative; None where a line's own is not known."""
    both = [each["scatter"] for each in (row, other) if each is not None and numbers.exists(each["scatter"])]
    return math.hypot(*both) if len(both) == 2 else None
