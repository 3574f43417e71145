"""How numbers are written for a reader: units, significant digits, no more of them than are known."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

MISSING = "–"  # noqa: RUF001 - an en dash is what a table prints for "no number"
TIMES = "×"  # noqa: RUF001 - the multiplication sign is meant
NARROW_SPACE = "\u202f"
GIB = 1024**3
MIB = 1024**2


def exists(value: object) -> bool:
    """Whether there is something to print: neither None nor NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def number(value: float | None, digits: int = 3) -> str:
    """At least `digits` significant digits, thousands apart: 0.0123, 4.50, 329, 609 487."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace(",", NARROW_SPACE)


def known(value: float | None, half_width: float | None, most: int = 4) -> str:
    """A number with the digits that its half-width leaves known: 2.97 ± 0.05, 3.5 ± 1.0, 120 ± 40; `most` of them.

    The half-width is taken to two digits where they are at most 35, else to one, and the number to the same place
    (Particle Data Group, Review of Particle Physics, Introduction: rounding). Where it is not known, three digits.
    """
    if value is None or half_width is None or not exists(value + half_width) or value == 0 or math.isinf(value):
        return number(value)
    first = -math.floor(math.log10(abs(value)))
    last = first + most - 1
    if math.isinf(half_width):
        last = first
    elif half_width > 0:
        place = -math.floor(math.log10(half_width))
        last = min(last, place + (half_width * 10.0**place < 3.55))
    last = max(last, first)
    return f"{round(value, last):,.{max(0, last)}f}".replace(",", NARROW_SPACE)


def _part(value: float | None, scatter: float | None) -> float | None:
    """A relative half-width as an absolute one."""
    return None if value is None or scatter is None else abs(value) * scatter


def rate(value: float | None, scatter: float | None = None) -> str:
    """Something per second: 609 000, three significant digits where its relative half-width leaves as many."""
    if value is None or not exists(value) or math.isinf(value):
        return number(value)
    if scatter is None or not exists(scatter):
        return number(value) if abs(value) < 1000 else number(round(value, 2 - math.floor(math.log10(abs(value)))))
    return known(value, _part(value, scatter), 3)


def times(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A speed-up with no more digits than its interval leaves known: 2.97×, 4.0×."""
    if value is None or not exists(value):
        return MISSING
    half = (high - low) / 2 if low is not None and high is not None and exists(low) and exists(high) else None
    return f"{known(value, half)}{TIMES}"


def scattered(value: float | None, scatter: float | None) -> str:
    """A speed-up of one process a line, with no more digits than the scatter of their windows leaves known."""
    return f"{known(value, _part(value, scatter), 3)}{TIMES}" if exists(value) else MISSING


def speed_up(row: Mapping[str, Any], name: str = "speed_up") -> str:
    """A summary row's ratio `name`, with the digits that its interval leaves known, or else its windows' scatter."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if exists(low) and exists(high):
        return times(row[name], low, high)
    return scattered(row[name], row.get("speed_up_scatter"))


def may_be_one(low: float | None, high: float | None) -> bool:
    """Whether an interval leaves open that there is no difference: it holds 1, and more than it."""
    return low is not None and high is not None and exists(low) and exists(high) and low <= 1 <= high and low < high


def milliseconds(value_s: float | None, scatter: float | None = None) -> str:
    """Seconds as a number of milliseconds, with the digits that a relative half-width leaves known."""
    if value_s is None or not exists(value_s):
        return MISSING
    return known(value_s * 1000, _part(value_s * 1000, scatter), 3)


def gibibytes(value: float | None) -> str:
    """Bytes with their unit: 1.84 GiB, 512 MiB."""
    if value is None or not exists(value):
        return MISSING
    return f"{number(value / GIB)} GiB" if value >= GIB else f"{number(value / MIB)} MiB"


def percent(value: float | None) -> str:
    """A fraction as 35 %."""
    return f"{number(value * 100, 2)} %" if value is not None and exists(value) else MISSING


def percentage(value: float | None) -> str:
    """A fraction as a number of percent, to two digits."""
    return percent(value).removesuffix(" %")


def ratio_range(low: float | None, high: float | None) -> str:
    """An interval of ratios, with the more digits the narrower it is: 2.912 to 3.043×, 0.51 to 1.9×.

    An end that is not 1 is not written as 1: whether it lies beyond is what an interval is asked.
    """
    if low is None or high is None or not exists(low) or not exists(high):
        return ""
    half = math.log(high / low) / 2 if 0 < low <= high < math.inf else math.inf
    digits = next(digits for digits, widest in ((4, 0.04), (3, 0.4), (2, math.inf)) if half <= widest)
    return f"{_beside_one(low, digits)} to {_beside_one(high, digits)}{TIMES}"


def _beside_one(value: float, digits: int) -> str:
    """A number that is not written as 1 unless it is 1, to eight digits."""
    while 0.5 < value < 1.5 and float(number(value, digits)) == 1 != value and digits < 8:
        digits += 1
    return number(value, digits)


def width(value: float | None) -> str:
    """Half an interval, relative: ±1.2 %."""
    return f"±{percent(value)}" if exists(value) else ""


def moment(iso: str) -> str:
    """A time in ISO 8601 as 2026-11-23 10:15 UTC; what is none stays as it is."""
    try:
        return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return iso


def duration(seconds: float, scatter: float | None = None) -> str:
    """In the unit that suits, with the digits that a relative half-width leaves known: 42.0 s, 7.50 min, 135 h."""
    unit, length = next(((u, n) for u, n in (("h", 3600.0), ("min", 60.0)) if seconds >= 1.5 * n), ("s", 1.0))
    return f"{known(seconds / length, _part(seconds / length, scatter), 3)} {unit}"


def plain(value: Any) -> str:
    """An axis value as one would type it: 16.0 is 16."""
    if not exists(value):
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def count(amount: int, noun: str, several: str = "") -> str:
    """`1 case`, `3 cases`; several: the plural where it is not formed with an s."""
    return f"{number(amount, 1)} {noun if amount == 1 else several or f'{noun}s'}"
