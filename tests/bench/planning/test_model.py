"""Seconds and bytes from work: planted coefficients come back, more work never takes less, memory is never negative."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.planning.cost import DEVICE_TERMS, Costs, fit
from bench.planning.memory import ROOM, largest_batch, step_memory
from bench.planning.work import METHODS, Line, Step, Work, step_work
from tests.bench.planning._parts import CF, COSTS, ENCODER, group

SETTINGS = {"optimizer": "adamw", "padding": "max_length", "text_length": 20}
PRIORS = {"device": {term: 3 * COSTS[term] for term in COSTS}, "host": {"launches": 1e-4, "slots": 1e-7, "step": 3e-3}}


def asked(method: str, users: int, steps: int, ratio: float, encoder, kind: str, table) -> Step:
    batch = group(users, ratio=ratio)
    interval = group(users * steps, ratio=2 * ratio) if steps > 1 else batch
    return Step(Line(method, "eager", steps, table), encoder, CF, batch, interval, **SETTINGS, device_kind=kind)


def work(method: str, users: int, *, steps: int = 1, ratio: float = 2.0, encoder=ENCODER, kind="cpu", **table) -> Work:
    return step_work(asked(method, users, steps, ratio, encoder, kind, table))


def varied(kind: str) -> list[Work]:
    """Works whose terms do not move together."""
    rng = np.random.default_rng(5)
    found = []
    for number in range(40):
        base = work(METHODS[number % 4], int(rng.integers(2, 200)), steps=4 if number % 4 == 3 else 1, kind=kind)
        found.append(Work(**{name: value * rng.uniform(0.2, 5) for name, value in vars(base).items()}))
    return found


def test_planted_coefficients_come_back() -> None:
    works = varied("cpu")
    planted = Costs("cpu", COSTS, {})
    noise = np.random.default_rng(1).lognormal(0, 0.01, len(works))
    found = fit(works, [planted.step_s(each) * by for each, by in zip(works, noise, strict=True)], "cpu", PRIORS)
    told = [found.step_s(each) / planted.step_s(each) for each in works]
    assert max(abs(np.log(told))) < 0.03
    assert found.device["product_flops"] == pytest.approx(COSTS["product_flops"], rel=0.1)
    assert found.log_sd < 0.05


def test_steps_that_the_host_limits_are_told_from_those_that_the_device_limits() -> None:
    """Fitted as one sum, short steps would get the device's rate, and long ones the launches'."""
    works = varied("cuda")
    device = {term: COSTS[term] for term in DEVICE_TERMS["cuda"]}
    middle = float(np.median([Costs("cuda", device, {}).device_s(each) for each in works]))
    launches = float(np.median([each.launches for each in works]))
    host = {"launches": 0.8 * middle / launches, "slots": 0.0, "step": 0.2 * middle}
    planted = Costs("cuda", device, host)
    limited = [planted.host_s(each) > planted.device_s(each) for each in works]
    assert 5 < sum(limited) < 35, "both kinds are there"
    found = fit(works, [planted.step_s(each) for each in works], "cuda", PRIORS)
    told = [abs(np.log(found.step_s(each) / planted.step_s(each))) for each in works]
    assert np.median(told) < 0.02
    assert max(told) < 0.25


def test_one_disturbed_step_does_not_move_the_others() -> None:
    works = varied("cpu")
    planted = Costs("cpu", COSTS, {})
    seconds = [planted.step_s(each) for each in works]
    seconds[7] *= 10
    found = fit(works, seconds, "cpu", PRIORS)
    told = [found.step_s(each) / planted.step_s(each) for place, each in enumerate(works) if place != 7]
    assert max(abs(np.log(told))) < 0.1


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least three"):
        fit(varied("cpu")[:2], [1.0, 2.0], "cpu", PRIORS)


def test_an_interval_widens_with_the_counts_error_and_beyond_what_was_measured() -> None:
    costs = Costs("cpu", COSTS, {}, log_sd=0.1, dof=5, least=1e6, most=1e9)
    within = replace(work("e2e", 4), product_flops=1e8)
    assert costs.error(within) == pytest.approx(0.1)
    assert costs.error(within, 0.1) > costs.error(within)
    assert costs.error(replace(within, product_flops=1e12)) > costs.error(within)
    assert costs.error(replace(within, product_flops=1e3)) > costs.error(within)
    assert costs.factor(0.1) > np.exp(1.645 * 0.1), "few steps tell less than many"


@pytest.mark.parametrize("tier", ["padded", "packed", "bucketed"])
@given(users=st.integers(1, 500), more=st.integers(1, 500), ratio=st.floats(1, 16), steps=st.integers(2, 50))
@settings(max_examples=30)
def test_more_users_never_take_less_time_or_memory(tier, users, more, ratio, steps) -> None:
    encoder, costs = replace(ENCODER, tier=tier), Costs("cpu", COSTS, {})
    for method in METHODS:
        own = steps if method == "multi_step" else 1
        few, many = (work(method, each, steps=own, ratio=ratio, encoder=encoder) for each in (users, users + more))
        assert costs.step_s(few) <= costs.step_s(many) * (1 + 1e-9)
        held = [memory(method, each, steps=own, ratio=ratio, encoder=encoder) for each in (users, users + more)]
        assert held[0].peak <= held[1].peak * (1 + 1e-9)
        assert all(value >= 0 for each in held for value in vars(each).values())
        assert held[0].peak >= held[0].fixed > 0


@given(users=st.integers(1, 300), ratio=st.floats(1, 16))
@settings(max_examples=30)
def test_deduplication_never_costs_the_encoder_anything(users, ratio) -> None:
    plain, unique = work("e2e", users, ratio=ratio), work("single_step", users, ratio=ratio)
    assert unique.product_flops == pytest.approx(plain.product_flops / ratio)
    assert unique.cf_flops == plain.cf_flops
    assert memory("single_step", users, ratio=ratio).peak <= memory("e2e", users, ratio=ratio).peak


def test_multi_step_forwards_once_more_and_updates_the_encoder_less_often() -> None:
    """Of an interval: new items without a backward pass, then all once; with one minibatch per step as many updates."""
    once = work("single_step", 32, ratio=2.0)
    interval = work("multi_step", 32, steps=4, ratio=2.0)
    assert interval.product_flops == pytest.approx(once.product_flops / 2 * 4 / 3)
    assert interval.optimizer_bytes == pytest.approx(once.optimizer_bytes)
    larger = work("multi_step", 32, steps=4, ratio=2.0, ce_batch_tokens=1_000_000)
    assert larger.optimizer_bytes < interval.optimizer_bytes / 2


def test_what_is_not_kept_is_computed_again() -> None:
    bounded = work("single_step", 64, chunk_tokens=1000, kept_tokens=0)
    assert bounded.product_flops == pytest.approx(work("single_step", 64).product_flops * 4 / 3)


def test_a_method_that_is_not_modelled_is_refused() -> None:
    with pytest.raises(ValueError, match="speedyfeed is not modelled; plan knows e2e"):
        work("speedyfeed", 4)


def memory(
    method: str, users: int, *, steps: int = 1, ratio: float = 2.0, encoder=ENCODER, checkpointing=False, **table
):
    step = asked(method, users, steps, ratio, encoder, "cpu", table)
    return step_memory(step, checkpointing=checkpointing)


def test_chunks_and_checkpoints_bound_memory() -> None:
    plain = memory("single_step", 256)
    assert memory("single_step", 256, chunk_tokens=2000, kept_tokens=0).peak < plain.peak
    assert memory("single_step", 256, checkpointing=True).activations < plain.activations
    assert memory("multi_step", 256, steps=8, ce_batch_tokens=2000).peak < plain.peak


@given(limit=st.floats(1e6, 1e10), each=st.floats(1e3, 1e8), fixed=st.floats(0, 1e7))
@settings(max_examples=60)
def test_the_largest_batch_fits_and_one_more_does_not(limit, each, fixed) -> None:
    found = largest_batch(lambda users: fixed + each * users, limit)
    if found is None:
        assert fixed + each > limit
    else:
        assert fixed + each * found <= limit
        assert found == ROOM or limit < fixed + each * (found + 1)


def test_what_stands_on_a_gpu_and_what_its_graphs_round_up_is_counted() -> None:
    packed = replace(ENCODER, tier="packed", standing_bytes=5e6, feed_forward=256)
    asked_of = [asked("single_step", 64, 1, 2.0, packed, kind, {}) for kind in ("cpu", "cuda")]
    on_cpu, on_gpu = (step_memory(each) for each in asked_of)
    assert on_gpu.fixed - on_cpu.fixed == pytest.approx(5e6 + 3 * 2**26)
    assert on_cpu.activations < on_gpu.activations < 1.06 * on_cpu.activations
    assert on_gpu.gradients < on_cpu.gradients
