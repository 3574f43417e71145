"""The statistics: against scipy where it has the same thing, against plain arithmetic where it has not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from bench.results.analysis import stats
from bench.results.schema import Record

VALUES = st.lists(st.floats(-3, 3), min_size=2, max_size=25)


def record(method: str, samples: tuple[float, ...], **changes) -> Record:
    values = {
        "case": {"workload": "synthetic", "batch_size": 32},
        "method": method,
        "engine": "eager",
        "block": 0,
        "exactness": "exact",
        "outcome": "ok",
        "samples_s": samples,
    }
    return Record(**(values | changes))


def interleaved(method: str, samples: dict[int, float], **changes) -> Record:
    return record(method, tuple(samples.values()), rounds=tuple(samples), schedule="interleaved", **changes)


# Block values


def test_a_block_is_the_median_over_common_rounds():
    """A round that one side lost is no pair; a co-tenant that slows three whole rounds moves nothing."""
    reference = interleaved("e2e", {0: 2.0, 1: 2.0, 2: 8.0, 3: 8.0, 4: 8.0, 5: 100.0})
    method = interleaved("m", {0: 1.0, 1: 1.0, 2: 4.0, 3: 4.0, 4: 4.0, 7: 1e-9})
    assert stats.block_values([reference], [method]) == {0: pytest.approx(math.log(2))}


def test_samples_of_one_round_count_once():
    """ABBA: each method twice in a round; the mean of the logarithms, in which a linear drift cancels out."""
    drift = [1.0, 2.0, 4.0, 8.0]
    reference = record("e2e", (3 * drift[0], 3 * drift[3]), rounds=(0, 0), schedule="interleaved")
    method = record("m", (drift[1], drift[2]), rounds=(0, 0), schedule="interleaved")
    assert stats.block_values([reference], [method]) == {0: pytest.approx(math.log(3))}


@pytest.mark.parametrize("schedule", ["solo", "alternated"])
def test_processes_that_did_not_take_turns_are_compared_by_their_medians(schedule):
    reference = record("e2e", (2.0, 4.0, 90.0), schedule=schedule)
    method = record("m", (1.0, 2.0, 3.0, 2.0, 2.0), schedule=schedule)
    assert stats.block_values([reference], [method]) == {0: pytest.approx(math.log(2))}


def test_only_blocks_measured_on_both_sides_count_and_they_come_in_order():
    reference = [record("e2e", (2.0,), block=block) for block in (3, 1, 0)]
    method = [
        record("m", (1.0,), block=1),
        record("m", (1.0,), block=3),
        record("m", (), block=0, outcome="oom", reason="too large"),
        record("m", (1.0,), block=2),
    ]
    assert list(stats.block_values(reference, method)) == [1, 3]


def test_no_common_round_is_no_block():
    assert stats.block_values([interleaved("e2e", {0: 1.0})], [interleaved("m", {1: 1.0})]) == {}


# Estimates


@given(VALUES)
def test_the_interval_is_students_t_over_blocks(values):
    found = stats.estimate(values)
    error = scipy.stats.sem(values)
    low, high = np.mean(values) + error * np.array(scipy.stats.t.ppf([0.025, 0.975], len(values) - 1))
    assert found.log_ratio == pytest.approx(np.mean(values), abs=1e-12)
    assert found.standard_error == pytest.approx(error, abs=1e-12)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert found.blocks == len(values)


def test_a_ratio_reads_as_a_ratio():
    found = stats.estimate([math.log(each) for each in (1.9, 2.0, 2.1, 2.0)])
    assert found.value == pytest.approx(1.99874, rel=1e-4)
    low, high = found.interval
    assert found.half_width == pytest.approx(math.sqrt(high / low) - 1)


def test_one_block_has_no_interval():
    found = stats.estimate([math.log(2)])
    assert found.value == pytest.approx(2)
    assert (found.standard_error, found.low, found.half_width, found.interval) == (None, None, None, None)
    assert "one block" in found.notes[0]


@pytest.mark.parametrize("values", [[], [0.0, math.nan], [math.inf]])
def test_no_estimate_from_nothing_finite(values):
    with pytest.raises(ValueError, match="finite block values"):
        stats.estimate(values)


@given(VALUES)
def test_hodges_lehmann_is_the_median_of_pairwise_means(values):
    pairs = [(a + b) / 2 for place, a in enumerate(values) for b in values[place:]]
    assert stats.hodges_lehmann(values) == pytest.approx(np.median(pairs), abs=1e-12)


def test_hodges_lehmann_of_very_many_values_is_quick_and_near():
    values = np.random.default_rng(0).gamma(2.0, size=20_000)
    sample = values[:2_000]
    pairs = np.add.outer(sample, sample)[np.triu_indices(len(sample))] / 2
    assert stats.hodges_lehmann(values.tolist()) == pytest.approx(np.median(pairs), rel=0.03)


STEADY = [0.011, -0.008, 0.004, -0.012, 0.007, 0.001, -0.003, 0.009]


def test_steady_blocks_have_no_note():
    assert stats.estimate(STEADY).notes == ()


def test_a_block_that_stands_apart_is_named_and_the_estimates_disagree():
    notes = " | ".join(stats.estimate([*STEADY[:5], 0.25, *STEADY[5:]]).notes)
    assert "block 6 of 9 is apart, +28" in notes
    assert "Hodges-Lehmann" in notes


def test_a_drift_over_the_blocks_is_named():
    (note,) = stats.estimate([value / 4 + 0.01 * block for block, value in enumerate(STEADY)]).notes
    assert note.startswith("the ratio drifts, +7.")


def test_differences_too_small_to_matter_have_no_note():
    """Three equal blocks and one a hair off are no outlier to anyone."""
    assert stats.estimate([0.1, 0.1, 0.1, 0.1, 0.1, 0.1001]).notes == ()


@pytest.mark.parametrize("amount", [6, 12, 20])
def test_notes_are_rare_on_steady_blocks(amount):
    """A flag that is often up is not looked at. Each of the three is to come in about one estimate of a hundred."""
    rng = np.random.default_rng(amount)
    counts = dict.fromkeys(("Hodges-Lehmann", "is apart", "drifts"), 0)
    for row in rng.normal(0, 0.02, (2_000, amount)).tolist():
        notes = " ".join(stats.estimate(row).notes)
        for name in counts:
            counts[name] += name in notes
    assert counts["is apart"] == pytest.approx(20, abs=14)
    assert counts["drifts"] == pytest.approx(20, abs=14)
    assert counts["Hodges-Lehmann"] <= 40


# When to stop


def spread(amount: int, half_width: float) -> list[float]:
    """Blocks whose interval has this half-width."""
    values = np.resize([1.0, -1.0], amount).astype(float)
    return (values * math.log1p(half_width) / (stats.estimate(values.tolist()).high - values.mean())).tolist()


def test_measuring_stops_at_the_least_number_where_blocks_are_far_more_precise_than_asked():
    assert stats.estimate(spread(6, 0.008)).half_width == pytest.approx(0.008)
    assert not stats.enough(spread(6, 0.008)[:5])
    assert stats.enough(spread(6, 0.008))
    assert not stats.enough(spread(6, 0.008), half_width=0.01)


def test_three_blocks_follow_where_the_precision_is_just_reached():
    """Stopping at once favours blocks that happen to lie close together: their intervals are too narrow."""
    values = [*spread(6, 0.014), 0.0, 0.0, 0.0]
    assert [stats.enough(values[:amount]) for amount in (6, 7, 8, 9)] == [False, False, False, True]


def test_measuring_stops_at_the_most_blocks_however_wide():
    wide = spread(20, 0.5)
    assert not stats.enough(wide[:19])
    assert stats.enough(wide)
    assert stats.enough(wide[:8], most=8)
    assert stats.enough([0.1], least=1, most=1)


@given(st.floats(-1, 1), VALUES)
def test_stopping_does_not_look_at_the_value(shift, values):
    """Never on significance: the same spread around another ratio stops at the same block."""
    moved = [value / 100 + shift for value in values]
    assert stats.enough([value / 100 for value in values]) == stats.enough(moved)


# The canary


def canaries(shifts: list[float], **changes) -> list[Record]:
    """e2e and its replica, whose times differ by these parts."""
    return [
        record("e2e", (seconds,), block=block, replica=replica, **changes)
        for block, shift in enumerate(shifts)
        for replica, seconds in ((0, 1.0 + shift), (1, 1.0))
    ]


def test_the_canary_is_e2e_against_its_replica():
    records = [*canaries([0.01, -0.01, 0.0]), record("m", (0.5,)), record("m", (0.4,), block=1, replica=1)]
    found = stats.canary(records)
    assert found.blocks == 3
    assert found.value == pytest.approx((1.01 * 0.99) ** (1 / 3))
    assert stats.canary([each for each in records if each.replica == 0]) is None


def test_the_canary_does_not_pair_engines():
    both = [*canaries([0.0, 0.0]), *canaries([9.0, 9.0], engine="fast")]
    assert sorted(stats._canary_values(both)) == pytest.approx([0, 0, math.log(10), math.log(10)])


def test_an_environment_is_trusted_where_the_whole_interval_is_within_the_limit():
    quiet = canaries([0.004, -0.004, 0.002, -0.002, 0.003, -0.003])
    assert stats.trust(quiet, 0.01).trusted
    biased = canaries([each + 0.02 for each in (0.004, -0.004, 0.002, -0.002, 0.003, -0.003)])
    assert not stats.trust(biased, 0.01).trusted
    assert stats.trust(biased, 0.03).trusted
    noisy = canaries([0.08, -0.08, 0.05, -0.05, 0.02, -0.02])
    assert not stats.trust(noisy, 0.03).trusted
    assert not stats.trust(canaries([0.0]), 0.03).trusted, "one block shows nothing"
    assert stats.trust([record("e2e", (1.0,))], 0.03) is None


def test_cases_join_in_one_canary():
    cases = [canaries([0.01, -0.01], case={"batch_size": size}) for size in (16, 32, 64)]
    found = stats.trust([each for case in cases for each in case], 0.03)
    assert (found.cases, found.canary.blocks) == (3, 6)
