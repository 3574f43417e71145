"""Derived numbers of training runs, on points whose answers are known by hand."""

from __future__ import annotations

import math

import pytest

from bench.results.analysis.stats import mean_interval
from bench.results.analysis.training_summary import frames
from bench.results.training import TrainingPoint
from tests.reports import _trainings


def points(method: str, seed: int, values: list[float], step_s: float = 1.0, **last) -> list[TrainingPoint]:
    """A training with these validation AUCs, 10 steps apart; each best's test is a hundredth below."""
    template = _trainings.course((method, None, "exact", 1.0, 0.7, 0.6, 1.0), seed)[0]
    made = []
    for number, value in enumerate(values, start=1):
        is_best = value > max(values[: number - 1], default=0.0)
        told = {
            "step": 10 * number, "train_s": 10 * number * step_s, "epoch": float(number), "validation": {"auc": value},
            "test": {"auc": value - 0.01} if is_best else {},
        }  # fmt: skip
        made.append(template.model_copy(update=told))
    ended = {"outcome": "ok", "stopped": "max_steps"} | last
    return [*made[:-1], made[-1].model_copy(update=ended)]


def summary(*trainings, **settings):
    found = frames([point for own in trainings for point in own], **settings)
    return {row["label"]: row for row in found.summary.to_dict("records")}


def test_times_to_the_best_and_to_e2es_quality_are_the_first_ones_that_fit():
    rows = summary(points("e2e", 0, [0.6, 0.7, 0.7, 0.65]), points("single_step", 0, [0.5, 0.696, 0.72], step_s=0.5))
    e2e, single = rows["e2e"], rows["single_step"]
    assert (e2e["best_s"], e2e["best_step"], e2e["quality_s"]) == (20.0, 20, 20.0)
    assert (single["best_s"], single["quality_s"]) == (15.0, 10.0)
    assert single["speed_up_best"] == pytest.approx(20 / 15)
    assert single["speed_up_quality"] == pytest.approx(2.0)
    assert single["speed_up_epochs"] == pytest.approx(20 / 30)
    assert single["test_auc"] == pytest.approx(0.71)
    assert single["difference_auc"] == pytest.approx(0.02)
    assert math.isnan(single["test_auc_low"]), "one seed has no interval"


def test_the_tolerance_decides_what_counts_as_reached():
    line = points("e2e", 0, [0.70]), points("single_step", 0, [0.694, 0.699])
    assert summary(*line)["single_step"]["quality_s"] == 20.0
    assert summary(*line, tolerance=0.01)["single_step"]["quality_s"] == 10.0
    none = summary(*line, tolerance=0.0)["single_step"]
    assert math.isnan(none["quality_s"])
    assert math.isnan(none["speed_up_quality"])
    assert (none["reached_seeds"], none["goal_seeds"]) == (0, 1)


def test_a_line_that_misses_it_with_one_seed_has_no_time_to_it():
    """A mean over the seeds that got there would praise a line for those that did not."""
    found = summary(
        *(points("e2e", seed, [0.7]) for seed in (0, 1)),
        points("single_step", 0, [0.7]),
        points("single_step", 1, [0.6]),
    )["single_step"]
    assert math.isnan(found["quality_s"])
    assert (found["reached_seeds"], found["goal_seeds"]) == (1, 2)
    assert found["speed_up_best"] == pytest.approx(1.0)


def test_differences_are_taken_seed_by_seed():
    """Seeds differ by far more than methods do; only pairs show the method."""
    tops = {0: 0.60, 1: 0.70, 2: 0.80}
    e2e = [points("e2e", seed, [top]) for seed, top in tops.items()]
    single = [points("single_step", seed, [top + 0.01 + 0.001 * seed]) for seed, top in tops.items()]
    found = summary(*e2e, *single)["single_step"]
    assert found["difference_auc"] == pytest.approx(0.011)
    assert 0.008 < found["difference_auc_low"] < found["difference_auc_high"] < 0.014
    assert found["test_auc_high"] - found["test_auc_low"] > 0.3


def test_the_interval_is_students():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert (mean, high - mean) == (2.0, pytest.approx(4.302653 / math.sqrt(3), rel=1e-6))
    assert mean - low == pytest.approx(high - mean)
    assert mean_interval([5.0]) == (5.0, None, None)


def test_a_failed_seed_stays_visible_and_out_of_the_means():
    failed = points("single_step", 1, [0.9], outcome="oom", reason="no room", stopped=None)
    row = summary(points("e2e", 0, [0.7]), points("single_step", 0, [0.7]), failed)["single_step"]
    assert (row["outcome"], row["reason"], row["seeds"], row["ok_seeds"]) == ("ok", "no room", 2, 1)
    assert row["test_auc"] == pytest.approx(0.69)
