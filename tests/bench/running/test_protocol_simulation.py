"""The measuring protocol on simulated machines: the functions that judge real runs, held to their error rates.

What these functions gave in 20,000 measurements and 1,200 gate runs over 48 cases (the tests run fewer, seeded):

world    deviation of a block   95 % interval covers   blocks   no change, tolerance 5 %: any FAIL
steady   0.6 %                  95.3 %                 6        0 of 1,200
shared   1.5 %                  93.9 %                 10       0 of 1,200
rough    2.9 %                  93.8 %                 16       0 of 1,200

Whether a loss is found depends on its distance from the tolerance, in standard errors, and on how many cases it hides
among. Where a method loses in all of its cases, every run fails. In one case of 48, the hardest, this part of the runs
fails at once or after its inconclusive cases were measured twice as long:

world    8 % lost, tolerance 5 %   5 % lost, tolerance 3 %
steady   100 %                     96 %
shared   95 %                      52 %
rough    63 %                      22 %

So an 8 % loss is found in >= 95 % of runs at a tolerance of 5 %, up to a block's deviation of 1.5 % (98 % where the
reference has at least 12 blocks), and a 5 % loss in >= 80 % at one of 3 %, for which clocks must be steady. What is not
found is INCONCLUSIVE and does not pass. At a tolerance of 5 % a 5 % loss is the tolerance itself: 0.2 % fail, 4 % pass.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.results.analysis import decisions, stats
from tests.bench import _simulated as simulated
from tests.bench._simulated import ROUGH, SHARED, STEADY, WORLDS, Gates

RUNS = 160
"""Of a gate over 48 cases; the figures above are of 1,200."""


@pytest.fixture(scope="module")
def gates():
    """One simulation a world serves every loss and tolerance."""
    return {"steady": Gates(STEADY, RUNS), "shared": Gates(SHARED, RUNS), "rough": Gates(ROUGH, RUNS // 2)}


def found(verdicts, lost: int) -> float:
    """In which part of the runs a case that lost is FAIL, at once or after doubling."""
    return float(np.mean(["fail" in (*first[:lost], *again[:lost]) for first, again in verdicts]))


def passed(verdicts, lost: int) -> float:
    """In which part of the runs all cases that lost pass in the end."""
    return float(np.mean([set(again[:lost]) == {"pass"} for _, again in verdicts]))


# The simulator


def test_the_simulated_block_values_are_those_of_the_records():
    """Everything below is made in arrays: they must be what the records of such a run would give."""
    rng = np.random.default_rng(0)
    for logs in simulated.times(ROUGH, rng, series=5, blocks=8):
        records = simulated.records(logs)
        values = stats.block_values(records[::2], records[1::2])
        assert list(values.values()) == pytest.approx(simulated.block_values(logs[None])[0], abs=1e-6)


def test_dropped_rounds_leave_the_value_of_the_others():
    rng = np.random.default_rng(1)
    (logs,) = simulated.times(SHARED, rng, series=1, blocks=8)
    lost = rng.random(logs.shape[:2]) < 0.3
    records = simulated.records(logs, lost)
    expected = [np.median((pairs[:, 0] - pairs[:, 1])[~gone]) for pairs, gone in zip(logs, lost, strict=True)]
    assert list(stats.block_values(records[::2], records[1::2]).values()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("world", "deviation"), [(STEADY, 0.006), (SHARED, 0.015), (ROUGH, 0.03)])
def test_the_worlds_are_as_noisy_as_they_say(world, deviation):
    values = simulated.values(world, np.random.default_rng(2), 1_000, 20)
    assert values.std() == pytest.approx(deviation, rel=0.1)
    assert abs(values.mean()) < 3 * deviation / math.sqrt(values.size)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_samples_of_one_process_are_no_substitute_for_blocks(world):
    """Guard: in a world where a thousand samples of one process covered 95 %, blocks would be for nothing."""
    logs = simulated.times(world, np.random.default_rng(3), series=150, blocks=1, rounds=1_000)
    pairs = (logs[..., 0] - logs[..., 1])[:, 0]
    covered = abs(pairs.mean(axis=1)) <= 1.962 * pairs.std(axis=1, ddof=1) / math.sqrt(1_000)
    assert covered.mean() < 0.6


# Coverage


def coverage(rows: list[list[float]], amounts: list[int]) -> float:
    """How often the nominal 95 % interval over the first blocks holds the truth, 0."""
    estimates = [stats.over_blocks(row[:amount]) for row, amount in zip(rows, amounts, strict=True)]
    return float(np.mean([each.low <= 0 <= each.high for each in estimates]))


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_nominal_95_percent_covers_93_to_97(world):
    """At a fixed number of blocks, and where the precision reached decides when to stop."""
    rows = simulated.values(world, np.random.default_rng(4), 4_000, stats.MOST_BLOCKS).tolist()
    for amount in (stats.LEAST_BLOCKS, stats.MOST_BLOCKS):
        assert 0.93 <= coverage(rows, [amount] * len(rows)) <= 0.97, f"{amount} blocks"
    assert 0.93 <= coverage(rows, [simulated.stopped(row) for row in rows]) <= 0.97


def test_stopping_at_once_would_cover_less():
    """Why blocks follow the precision that was asked for: without them, lucky blocks end a measurement."""
    rows = np.random.default_rng(5).normal(0, 0.026, (4_000, stats.MOST_BLOCKS)).tolist()
    patient = [simulated.stopped(row) for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "EXTRA_BLOCKS", 0)
        hasty = [simulated.stopped(row) for row in rows]
    assert coverage(rows, hasty) + 0.005 < coverage(rows, patient)


@pytest.mark.parametrize("world", [STEADY, SHARED], ids=["steady", "shared"])
def test_the_precision_asked_for_is_reached(world):
    rows = simulated.values(world, np.random.default_rng(6), 500, stats.MOST_BLOCKS).tolist()
    estimates = [stats.over_blocks(row[: simulated.stopped(row)]) for row in rows]
    assert np.mean([each.half_width <= stats.HALF_WIDTH for each in estimates]) >= 0.95
    if world is STEADY:
        assert np.mean([each.blocks for each in estimates]) < 7, "a steady machine must not pay for rough ones"


# The gate


@pytest.mark.parametrize("name", WORLDS)
def test_no_change_hardly_ever_fails(name, gates):
    """48 cases, none changed, FAIL in <= 1 % of gate runs at a tolerance of 5 %, doubling included.

    And that where each case differs by some 1 % from the reference's day, which the error bars cannot know.
    """
    verdicts = gates[name].verdicts(0.0, 0, 0.05, days=0.01)
    assert np.mean(["fail" in (*first, *again) for first, again in verdicts]) <= 0.01


@pytest.mark.parametrize(("name", "tolerance"), [("steady", 0.03), ("shared", 0.05)])
def test_no_change_passes(name, tolerance, gates):
    """A gate that never decides finds nothing: at the machine's own tolerance nearly every run passes whole."""
    verdicts = gates[name].verdicts(0.0, 0, tolerance)
    assert passed(verdicts, 48) >= 0.97


@pytest.mark.parametrize(("name", "tolerance"), [("steady", 0.03), ("shared", 0.05), ("rough", 0.05)])
def test_a_loss_of_the_whole_tolerance_is_where_errors_begin(name, tolerance, gates):
    """The worst case of both errors. Without Holm over half of such runs would fail, with it few do; no case passes
    more often than two looks at 2.5 % each, and the early stops, allow."""
    verdicts = gates[name].verdicts(tolerance, 48, tolerance)
    assert np.mean(["fail" in first for first, _ in verdicts]) <= 0.06
    assert found(verdicts, 48) <= 0.11
    assert np.mean([[each == "pass" for each in again] for _, again in verdicts]) <= 0.06
    uncorrected = [
        any(
            simulated.verdicts([replace(each, log_difference=each.log_difference + math.log1p(-tolerance))], tolerance)
            == ("fail",)
            for each in gates[name].differences(run, now)
        )
        for run, now in enumerate(gates[name].now)
    ]
    assert np.mean(uncorrected) > 0.5


def test_a_reference_without_its_error_would_raise_false_alarms(gates):
    """Why a reference carries its uncertainty: taken as a point, it fails unchanged runs at no tolerance."""
    shared = gates["shared"]
    pairs = [pair for run, now in enumerate(shared.now) for pair in zip(now, shared.reference(run), strict=True)]
    welch = np.mean([simulated.verdicts([decisions.difference(*pair)], 0.0) == ("fail",) for pair in pairs])
    point = np.mean(
        [simulated.verdicts([decisions.above_floor(now, then.value)], 0.0) == ("fail",) for now, then in pairs]
    )
    assert welch <= 0.04
    assert point > 2 * welch


@pytest.mark.parametrize("name", WORLDS)
def test_a_loss_of_8_percent_in_every_case_fails(name, gates):
    """What a slower method does. At a tolerance of 5 % on any machine."""
    assert found(gates[name].verdicts(0.08, 48, 0.05), 48) >= 0.99


def test_a_loss_of_8_percent_in_one_case_of_48_fails(gates):
    """At a tolerance of 5 %, in >= 95 % of runs, up to a block's deviation of 1.5 %; beyond, it at least never passes.

    A reference of 6 blocks is at the edge of that (95 % +- 1 %); one of 12 is well inside.
    """
    assert found(gates["steady"].verdicts(0.08, 1, 0.05), 1) >= 0.95
    assert found(gates["shared"].verdicts(0.08, 1, 0.05), 1) >= 0.92
    better = Gates(SHARED, RUNS, reference_blocks=12)
    assert found(better.verdicts(0.08, 1, 0.05), 1) >= 0.95
    rough = gates["rough"].verdicts(0.08, 1, 0.05)
    assert found(rough, 1) >= 0.5
    assert passed(rough, 1) <= 0.01


def test_a_loss_of_5_percent_in_one_case_of_48_fails_on_steady_clocks(gates):
    """At a tolerance of 3 %, in >= 80 % of runs. At 5 % it is the tolerance itself: neither found nor passed."""
    assert found(gates["steady"].verdicts(0.05, 1, 0.03), 1) >= 0.80
    for name in ("steady", "shared"):
        edge = gates[name].verdicts(0.05, 1, 0.05)
        assert found(edge, 1) <= 0.03
        assert passed(edge, 1) <= 0.10
    assert found(gates["shared"].verdicts(0.05, 48, 0.03), 48) >= 0.95, "in all cases it shows on shared machines too"


# The canary


@pytest.mark.parametrize(("name", "kind"), [("steady", "cuda"), ("shared", "cpu")])
def test_the_canary_trusts_a_sound_environment_and_no_biased_one(name, kind):
    """Six cases of six blocks; the bias: the process that is started second is slower by twice the limit."""
    limit = stats.CANARY_LIMITS[kind]
    trusted = {0.0: [], 2 * limit: []}
    for bias, seen in trusted.items():
        rng = np.random.default_rng(7)
        for _ in range(50):
            logs = simulated.times(WORLDS[name], rng, series=6, blocks=6)
            logs[..., 1] += math.log1p(bias)
            records = [
                each
                for case, one in enumerate(logs)
                for each in simulated.records(one, canary=True, case={"batch_size": case})
            ]
            seen.append(stats.trust(records, limit).trusted)
    assert np.mean(trusted[0.0]) >= 0.95
    assert np.mean(trusted[2 * limit]) <= 0.02


def test_the_canary_does_not_trust_a_hopeless_environment():
    """Noise alone, without any bias, must not be read as "nothing found"."""
    hopeless = replace(ROUGH, process=0.15)
    logs = simulated.times(hopeless, np.random.default_rng(8), series=40, blocks=6)
    trusted = [stats.trust(simulated.records(one, canary=True), 0.03).trusted for one in logs]
    assert np.mean(trusted) <= 0.05
