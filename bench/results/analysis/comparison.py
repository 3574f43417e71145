"""Two runs line by line: both speed-ups, their difference with its interval, and a word for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.results.analysis.decisions import Difference, difference
from bench.results.analysis.lines import LineResult, input_changes, under_names_of
from bench.results.analysis.stats import REFERENCE

EQUAL_WITHIN = 0.05
"""Relative; an interval that lies inside is called the same."""

Word = Literal["faster", "slower", "same", "unclear", "no interval", "no speed-up", "only in A", "only in B", "outcome"]


@dataclass(frozen=True)
class Compared:
    """One line in two runs, A the earlier; its interval is its own, not corrected for the number of lines."""

    a: LineResult | None
    b: LineResult | None
    difference: Difference | None
    word: Word

    @property
    def line(self) -> LineResult:
        """Either's, for its names."""
        found = self.b or self.a
        assert found is not None, "a compared line is in one run at least"
        return found

    @property
    def input_changes(self) -> list[str]:
        """How what the line was measured on differs between the runs."""
        return input_changes(self.a, self.b, "A's") if self.a and self.b else []


def compare(a: Sequence[LineResult], b: Sequence[LineResult]) -> tuple[Compared, ...]:
    """Every line of either run in A's order, then what only B has; e2e only where it ended otherwise or is missing."""
    then, now = {line.line: line for line in under_names_of(a, b)}, {line.line: line for line in b}
    pairs = [(then.get(key), now.get(key)) for key in dict.fromkeys((*then, *now))]
    compared = [_compared(*pair) for pair in pairs]
    return tuple(each for each in compared if each.line.method != REFERENCE or each.word != "no speed-up")


def _compared(a: LineResult | None, b: LineResult | None) -> Compared:
    if a is None or b is None:
        return Compared(a, b, None, "only in B" if a is None else "only in A")
    if a.outcome != b.outcome:
        return Compared(a, b, None, "outcome")
    if a.speed_up is None or b.speed_up is None:
        return Compared(a, b, None, "no speed-up")
    found = difference(b.speed_up, a.speed_up)
    return Compared(a, b, found, _word(found))


def _word(found: Difference) -> Word:
    if found.low is None or found.high is None:
        return "no interval"
    if found.low >= math.log1p(-EQUAL_WITHIN) and found.high <= math.log1p(EQUAL_WITHIN):
        return "same"
    if found.high < 0:
        return "slower"
    return "faster" if found.low > 0 else "unclear"
