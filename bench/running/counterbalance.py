"""In which order the processes of a block take their turns.

A Williams design: in a cycle every line has every place equally often, and follows every other line equally
often, so that neither a drift of the machine nor what the one before leaves behind (heat, caches) favours a line.
For two lines that is AB, BA. (E. J. Williams, Experimental designs balanced for the estimation of residual effects of
treatments, 1949.)
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def williams(lines: int) -> tuple[tuple[int, ...], ...]:
    """The orders of one cycle: as many as lines, for an odd number twice as many."""
    if lines < 1:
        raise ValueError(f"a design needs lines, not {lines}")
    first = _zigzag(lines)
    rows = [tuple((place + shift) % lines for place in first) for shift in range(lines)]
    return tuple(rows if lines % 2 == 0 else [*rows, *(row[::-1] for row in rows)])


def _zigzag(lines: int) -> list[int]:
    """0, 1, n - 1, 2, n - 2, ...: neighbours whose differences are all distinct."""
    low, high, order = 1, lines - 1, [0]
    while low <= high:
        order.append(low)
        if low != high:
            order.append(high)
        low, high = low + 1, high - 1
    return order


def in_round(lines: Sequence[T], number: int) -> tuple[T, ...]:
    """The lines in the order of round `number`; orders come again after a cycle."""
    orders = williams(len(lines)) if lines else ((),)
    return tuple(lines[place] for place in orders[number % len(orders)])
