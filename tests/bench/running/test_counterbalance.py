"""Counterbalanced orders."""

import itertools
from collections import Counter

import pytest

from bench.running.counterbalance import in_round, williams


@pytest.mark.parametrize("lines", range(1, 10))
def test_every_line_stands_everywhere_and_follows_every_other_equally_often(lines):
    orders = williams(lines)
    assert all(sorted(order) == list(range(lines)) for order in orders)
    places = Counter((place, line) for order in orders for place, line in enumerate(order))
    assert len(places) == lines**2
    assert len(set(places.values())) == 1
    successions = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert len(successions) == lines * (lines - 1)
    assert len(set(successions.values())) <= 1


def test_two_lines_alternate_as_abba():
    assert "".join("".join(in_round("AB", number)) for number in range(4)) == "ABBAABBA"


def test_a_design_needs_lines():
    with pytest.raises(ValueError, match="needs lines"):
        williams(0)
    assert in_round((), 3) == ()
