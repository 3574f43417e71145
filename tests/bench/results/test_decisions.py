"""Differences and verdicts: against scipy where it has the same thing, against their definition where it has not."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from bench.results.analysis.decisions import Difference, Verdict, _difference, above_floor, decide, difference, holm
from bench.results.analysis.stats import estimate
from tests.bench.results.test_stats import STEADY, VALUES


@given(VALUES, VALUES)
def test_the_difference_is_welchs(now, reference):
    if np.std(now) < 1e-6 or np.std(reference) < 1e-6:
        return
    found = difference(estimate(now), estimate(reference))
    expected = scipy.stats.ttest_ind(now, reference, equal_var=False, alternative="less")
    assert found.p_below(0.0) == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.p_above(0.0) == pytest.approx(1 - expected.pvalue, abs=1e-9)
    assert found.degrees_of_freedom == pytest.approx(expected.df)
    interval = scipy.stats.ttest_ind(now, reference, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_a_floor_has_no_error_of_its_own():
    values = [0.10, 0.13, 0.12, 0.11]
    found = above_floor(estimate(values), math.exp(0.05))
    assert found.p_above(0.0) == pytest.approx(scipy.stats.ttest_1samp(values, 0.05, alternative="greater").pvalue)
    assert found.degrees_of_freedom == 3


def verdicts(found: list[Difference]) -> tuple[Verdict, ...]:
    return tuple(each.verdict for each in decide([(each, 0.05) for each in found]))


def test_an_unknown_error_decides_nothing():
    one, several = estimate([-1.0]), estimate(STEADY)
    for found in (difference(one, several), difference(several, one), above_floor(one, 9.0)):
        assert (found.p_below(0.0), found.p_above(0.0)) == (1.0, 1.0)
        assert verdicts([found]) == ("inconclusive",)


def test_blocks_without_any_spread_decide_by_their_value():
    same, slower = estimate([0.5] * 6), estimate([0.4] * 6)
    assert verdicts([difference(same, same)]) == ("pass",)
    assert verdicts([difference(slower, same)]) == ("fail",)


def ends(low: float, high: float) -> Difference:
    """A difference whose 95 % interval has these ends."""
    return _difference((low + high) / 2, (high - low) / 2 / scipy.stats.t.ppf(0.975, 9), 9)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.09, -0.052, "fail"),
        (-0.09, -0.050, "inconclusive"),
        (-0.052, 0.20, "inconclusive"),
        (-0.050, -0.001, "pass"),
        (-0.01, 0.01, "pass"),
        (0.1, 0.2, "pass"),
    ],
)
def test_three_states_by_the_interval_and_the_tolerance(low, high, expected):
    """ln(1 - 5 %) is -0.0513. A loss surely smaller than the tolerance passes, although it is surely there."""
    found = ends(low, high)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert verdicts([found]) == (expected,)


def test_holm_against_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_keeps_order_and_never_lowers(p_values):
    adjusted = holm(p_values)
    assert all(1 >= after >= before for before, after in zip(p_values, adjusted, strict=True))
    ordered = [after for _, after in sorted(zip(p_values, adjusted, strict=True))]
    assert all(earlier <= later for earlier, later in pairwise(ordered))
    assert min(adjusted) == pytest.approx(min(1.0, len(p_values) * min(p_values)))


def test_among_many_cases_one_narrow_failure_needs_more():
    narrow, fine = ends(-0.09, -0.052), ends(-0.01, 0.01)
    assert verdicts([narrow]) == ("fail",)
    assert verdicts([narrow] + [fine] * 20) == ("inconclusive", *["pass"] * 20)
    clear = ends(-0.15, -0.10)
    assert verdicts([clear] + [fine] * 20) == ("fail", *["pass"] * 20)
    first, *_ = decide([(each, 0.05) for each in [narrow] + [fine] * 20])
    assert (first.p_alone, first.p_fail) == (pytest.approx(narrow.p_below(math.log1p(-0.05))), 21 * first.p_alone)
