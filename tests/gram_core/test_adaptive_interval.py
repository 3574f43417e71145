"""accumulation_steps "auto": N follows drift and costs, never its bounds' other side, and the same way every time."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from gram_core.adaptive_interval import AdaptiveInterval, StepCosts, evenly, relative_drift
from gram_core.methods.multi_step import MultiStep
from tests.gram_core import _models as m


def policy(**values):
    return AdaptiveInterval(
        **{"most": 64, "drift_limit": 0.1, "encoder_share": 0.25, "cf_step_tokens": 100.0, **values}
    )


def test_n_doubles_while_the_encoder_is_dear_and_drift_is_low():
    adaptive = policy()
    seen = []
    for _ in range(8):
        adaptive.observe(0.01, encoded_tokens=0, trained_tokens=10_000)
        seen.append(adaptive.steps)
    assert seen == [2, 4, 8, 16, 32, 64, 64, 64]


def test_n_stops_growing_where_the_encoder_costs_little():
    adaptive = policy(encoder_share=0.5)
    for _ in range(8):
        adaptive.observe(0.01, encoded_tokens=0, trained_tokens=1000)
    assert adaptive.steps == 16  # at 16 steps 1000 / (1000 + 1600) is below a half; at 8 it was above
    assert adaptive.share(0, 1000) < 0.5


@pytest.mark.parametrize(("drift", "then"), [(0.101, 8), (0.1, 16), (0.051, 16), (0.05, 32)])
def test_n_halves_over_the_limit_and_grows_from_half_of_it(drift, then):
    adaptive = policy(steps=16)
    adaptive.observe(drift, encoded_tokens=0, trained_tokens=1e9)
    assert adaptive.steps == then


@settings(max_examples=40)
@given(drifts=st.lists(st.floats(0, 1) | st.just(math.inf), max_size=20), most=st.integers(1, 9))
def test_n_stays_within_its_bounds(drifts, most):
    adaptive = policy(most=most)
    for drift in drifts:
        adaptive.observe(drift, 10.0, 1e6)
        assert 1 <= adaptive.steps <= most


@pytest.mark.parametrize(
    "wrong", [{"most": 0}, {"drift_limit": 0.0}, {"encoder_share": 1.0}, {"cf_step_tokens": 0.0}], ids=str
)
def test_bounds_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="'auto' needs"):
        policy(**wrong)


def test_drift_is_measured_in_units_of_how_far_items_lie_apart():
    fresh = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    moved = fresh + torch.tensor([0.0, 0.5])
    assert relative_drift(moved, fresh) == pytest.approx(0.5)
    assert relative_drift(10 * moved, 10 * fresh) == pytest.approx(0.5)
    assert relative_drift(fresh, fresh) == 0.0
    same = torch.ones(2, 2)
    assert relative_drift(same, same) == 0.0
    assert relative_drift(same + 1, same) == math.inf


def test_a_sample_is_spread_over_all_items():
    assert evenly(torch.arange(5), 8).tolist() == [0, 1, 2, 3, 4]
    assert evenly(torch.arange(101), 3).tolist() == [0, 50, 100]


def test_costs_are_medians_after_a_warm_up():
    now = iter([0.0, 9.0, 0.0, 9.0, *[0.0, 3.0] * 5, *[0.0, 7.0] * 2, *[0.0, 2.0] * 5])
    costs = StepCosts(lambda: next(now))
    for _ in range(7):
        assert costs.cf_step_tokens is None
        with costs.cf_step():
            pass
    for _ in range(7):
        with costs.ce_step(tokens=10):
            pass
    assert costs.cf_step_tokens == pytest.approx(3.0 / 0.2)


def auto(training, **values):
    return MultiStep(training, MultiStep.Settings(accumulation_steps="auto", **{"most_steps": 8, **values}))


def batches(count):
    return [m.make_batch(users=3, seed=40 + step, items=10) for step in range(count)]


def trained(method, steps):
    intervals = []
    for batch in batches(steps):
        method.step(batch)
        if not method.pending:
            intervals.append(method.interval)
    return intervals


def weights(method):
    return [p.detach().clone() for p in method.training.encoder.parameters()]


def test_n_grows_while_training_where_the_encoder_hardly_moves():
    method = auto(m.with_adamw(m.make_training(), rate=1e-6), cf_step_tokens=1e-3, drift_limit=99.0)
    assert trained(method, 23) == [2, 4, 8, 8, 8]


def test_n_stays_one_where_the_encoder_moves_far():
    method = auto(m.with_adamw(m.make_training(), rate=0.1), cf_step_tokens=1e-3, drift_limit=1e-6)
    assert trained(method, 4) == [1, 1, 1, 1]


def test_a_constant_n_reached_by_auto_trains_as_that_n_does():
    chosen = auto(m.with_adamw(m.make_training()), cf_step_tokens=1e9)
    fixed = MultiStep(m.with_adamw(m.make_training()), MultiStep.Settings(accumulation_steps=1))
    assert trained(chosen, 5) == trained(fixed, 5) == [1] * 5
    assert all(torch.equal(a, b) for a, b in zip(weights(chosen), weights(fixed), strict=True))


def test_measured_costs_are_kept_and_the_clock_is_read_no_more():
    method = auto(m.with_adamw(m.make_training(), rate=1e-6), drift_limit=99.0)
    ticks = iter(range(10_000))
    method.costs = StepCosts(lambda: float(next(ticks)))
    trained(method, 7)
    read = next(ticks)
    trained(method, 20)
    assert next(ticks) == read + 1
    assert method.interval > 1


def test_without_costs_and_without_a_clock_there_is_a_sentence():
    with pytest.raises(ValueError, match="set cf_step_tokens"):
        auto(m.with_adamw(m.make_training())).step(batches(1)[0])
    with pytest.raises(ValueError, match="most_steps"):
        MultiStep(m.make_training(), MultiStep.Settings(accumulation_steps="auto"))


def test_a_restored_method_goes_on_as_the_other_would():
    method = auto(m.with_adamw(m.make_training(), rate=1e-6), cf_step_tokens=1e-3, drift_limit=99.0)
    trained(method, 3)
    other = auto(m.with_adamw(m.make_training(), rate=1e-6), cf_step_tokens=5.0)
    other.restore(method.state())
    assert (other.interval, other.state()["adaptive"].tolist()) == (4, [4.0, 1e-3])
    assert MultiStep(m.make_training()).state() == {}
