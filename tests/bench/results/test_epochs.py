"""Epochs are projected from steps: exactly so where the costs are known."""

from __future__ import annotations

import pytest

from bench.results.analysis.epochs import epochs
from bench.results.detail import MeasurementDetail
from tests.reports import _runs

CF_S, ITEM_S, ITEMS = 0.01, 0.002, 500


def line(method, seconds, steps=None, batch=32, **changes):
    record = _runs.record(method, steps, workload="shape:poj", ratio=None, batch_size=batch)
    detail = {"workload": {"items": ITEMS, "scale": 0.1}}
    return record.model_copy(
        update={
            "samples_s": (seconds,) * 3,
            "steps_per_epoch": 100,
            "detail": MeasurementDetail(**detail),
            "interval_unique_items": None,
        }
        | changes
    )


def multi(steps, touched, **changes):
    """A line whose interval costs what the model says, and whose CF step was timed."""
    interval_s = steps * CF_S + touched * ITEM_S
    told = {"interval_unique_items": touched, "cf_step_s": CF_S} | changes
    return line("multi_step", interval_s / steps, steps, **told)


def by_label(records):
    return {each.label: each for each in epochs(records)}


def test_an_epoch_is_its_steps_times_a_step_at_the_whole_logs_scale():
    found = by_label([line("e2e", 0.5), line("single_step", 0.1)])
    assert found["e2e"].seconds == pytest.approx(0.5 * 1000)
    assert (found["single_step"].steps, found["single_step"].basis) == (1000, "steps")
    assert found["single_step"].speed_up == pytest.approx(5)


def test_long_intervals_follow_from_a_shorter_one():
    found = by_label([line("e2e", 0.5), multi(8, 100.0)])
    assert found["multi_step N=1E"].seconds == pytest.approx(1000 * CF_S + ITEMS * ITEM_S)
    assert found["multi_step N=0.5E"].seconds == pytest.approx(1000 * CF_S + 2 * ITEMS * ITEM_S)
    assert found["multi_step N=1E"].basis == "model"
    assert found["multi_step N=8"].seconds == pytest.approx((CF_S + 100 * ITEM_S / 8) * 1000)


def test_of_several_intervals_the_middle_costs_count():
    slow = multi(32, 300.0)
    slow = slow.model_copy(update={"samples_s": tuple(2 * seconds for seconds in slow.samples_s)})
    found = by_label([multi(8, 100.0), multi(64, 400.0), slow])
    assert found["multi_step N=1E"].seconds == pytest.approx(1000 * CF_S + ITEMS * ITEM_S)
    assert found["multi_step N=1E"].speed_up is None


def test_a_measured_epoch_is_not_modelled():
    found = epochs([multi(8, 100.0), line("multi_step", 0.012, "1E")])
    assert [each.basis for each in found if each.label == "multi_step N=1E"] == ["steps"]


@pytest.mark.parametrize(
    "records",
    [
        [multi(8, 100.0, cf_step_s=None)],
        [multi(8, 100.0, interval_unique_items=None)],
        [multi(8, 100.0, cf_step_s=1.0)],
        [line("multi_step", 0.012, "0.25E", cf_step_s=CF_S, interval_unique_items=100.0)],
    ],
    ids=["no CF step was timed", "items not counted", "an item's cost below zero", "an interval of unknown length"],
)
def test_what_intervals_do_not_tell_is_not_projected(records):
    assert "multi_step N=1E" not in by_label(records)


def test_e2e_of_another_batch_size_lends_its_epoch_where_this_one_has_none():
    """Out of memory is no reason to compare with nothing."""
    out = line("e2e", 1.0, batch=64).model_copy(update={"outcome": "oom", "samples_s": (), "reason": "too large"})
    small = line("e2e", 0.2, batch=8, steps_per_epoch=400)
    found = by_label([small, out, line("single_step", 0.1, batch=64, steps_per_epoch=50)])
    assert found["single_step"].reference_s == pytest.approx(0.2 * 4000)
    assert found["single_step"].of_batch == 8
    assert found["e2e"].of_batch is None


def test_settings_do_not_lend_to_each_other():
    small = line("e2e", 0.2, batch=8).model_copy(update={"engine": "fast"})
    assert by_label([small, line("single_step", 0.1)])["single_step"].reference_s is None


def test_logs_without_epochs_and_canaries_are_left_out():
    assert epochs([line("e2e", 0.5, steps_per_epoch=None), line("e2e", 0.5, replica=1)]) == ()
