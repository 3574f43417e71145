"""When a training is timed, evaluated and ended, and that only the method tells two lines apart."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bench.build import assembly, schedules
from bench.configuration.train_settings import TrainSettings
from bench.measure.clock import HostClock
from bench.training import checkpoint, judging
from bench.training.loop import EarlyStopping, Learner
from bench.workloads._base import Scored
from tests.bench.training import _tiny


class StepClock(HostClock):
    """Reads 1 s per step and 100 s per held-out batch, whatever the machine does."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked: list[int] = []
        """Numbers of the batches that were trained on."""

    def now(self) -> float:
        return self.seconds


@pytest.fixture
def learner(monkeypatch):
    """A function: method line and settings -> a learner on a clock of its own."""
    _tiny.install(monkeypatch)

    def made(method: str, steps=None, seed: int = 0, cf_module: str = "nrms", **train) -> Learner:
        config = _tiny.settings(**train)
        built = assembly.build(
            config, _tiny.item(method, steps, cf_module=cf_module).work, torch.device("cpu"), training_seed=seed
        )
        clock = StepClock()
        workload = built.workload
        batches, validation = workload.batches, workload.validation.batches

        def batch(step):
            clock.seconds += 1
            clock.asked.append(step)
            return batches(step)

        def held_out(number):
            clock.seconds += 100
            return validation(number)

        object.__setattr__(workload, "batches", batch)
        object.__setattr__(workload.validation, "batches", held_out)
        return Learner(built, config.train, clock, seed)

    return made


def course(learner: Learner) -> list:
    found = []
    while learner.stopped is None:
        learner.advance()
        found.append(learner.evaluate())
    return found


def test_time_is_that_of_steps_alone(learner):
    found = course(learner("single_step", max_steps=8, evaluate_every=3))
    assert [(each.step, each.train_s) for each in found] == [(3, 3.0), (6, 6.0), (8, 8.0)]
    assert found[0].evaluation_s == 400.0
    assert [each.epoch for each in found] == [0.5, 1.0, 8 / 6]
    assert found[-1].stopped == "max_steps"
    assert found[-1].interactions == 8 * _tiny.USERS * (_tiny.HISTORY + _tiny.CANDIDATES)


@pytest.mark.parametrize(("steps", "at"), [(4, [4, 8, 10]), ("1E", [6, 10]), (2, [4, 6, 10])])
def test_an_open_interval_is_never_cut_short_but_at_the_end(learner, steps, at):
    """finish() in the middle would train something else than the method."""
    chosen = learner("multi_step", steps, max_steps=10, evaluate_every=3)
    ends = []
    while chosen.stopped is None:
        chosen.advance()
        assert not chosen.method.pending
        ends.append(chosen.evaluate().step)
    assert ends == at


def test_patience_ends_a_training_and_only_a_best_is_tested(learner):
    chosen = learner("e2e", patience=4, max_steps=None, max_epochs=None, evaluate_every=3)
    found = course(chosen)
    values = [each.validation["auc"] for each in found]
    best = values.index(max(values))
    assert found[-1].stopped == "patience"
    assert len(found) == best + 5
    assert [bool(each.test) for each in found] == [
        all(value > earlier for earlier in values[:place]) for place, value in enumerate(values)
    ]
    assert best > 0, "guard: the first is not the best"


@pytest.mark.parametrize(("train", "stopped", "step"), [
    ({"max_epochs": 1.5, "max_steps": None}, "max_epochs", 9),
    ({"max_train_s": 4.0}, "max_train_s", 4),
    ({"max_steps": 5}, "max_steps", 5),
])  # fmt: skip
def test_each_limit_ends_it_and_says_so(learner, train, stopped, step):
    found = course(learner("multi_step", "1E", patience=99, evaluate_every=50, **train))
    assert (found[-1].step, found[-1].stopped) == (step, stopped)


@pytest.mark.parametrize(
    ("method", "steps"), [("e2e", None), ("multi_step", "1E"), ("frozen", None), ("ids_only", None)]
)
def test_untimed_steps_leave_no_trace(learner, method, steps):
    """Same losses, same parameters at the end, and none of them on the clock: weights, moments, rates, N, caches."""
    plain, warmed = (learner(method, steps, max_steps=9, untimed_steps=count) for count in (0, 4))
    warmed.warm_up()
    warmed.clock.seconds = 0.0
    assert len(warmed.clock.asked) == 4, "guard: steps were taken"
    a, b = course(plain), course(warmed)
    assert [(each.step, each.loss, each.train_s) for each in a] == [(each.step, each.loss, each.train_s) for each in b]
    assert checkpoint.fingerprint(plain.training) == checkpoint.fingerprint(warmed.training)


def test_what_differs_between_lines_of_a_seed_is_the_method(learner):
    """Weights and batches are a seed's, whatever the line; what is held out is everybody's."""
    lines = [learner("e2e"), learner("single_step"), learner("multi_step", 4), learner("frozen")]
    first = [parameter.clone() for parameter in lines[0].training.encoder.parameters()]
    for other in lines[1:]:
        assert all(torch.equal(a, b) for a, b in zip(first, other.training.encoder.parameters(), strict=True))
        cf_modules = lines[0].training.cf_module.parameters(), other.training.cf_module.parameters()
        assert all(torch.equal(a, b) for a, b in zip(*cf_modules, strict=True))
    changed = learner("e2e", seed=1)
    assert not torch.equal(first[0], next(iter(changed.training.encoder.parameters())))
    for each in (*lines, changed):
        each.advance()
    orders = [each.clock.asked[:3] for each in (*lines, changed)]
    assert all(order == orders[0] for order in orders[:4])
    assert set(orders[4]).isdisjoint(orders[0])
    questions = [each.built.workload.validation.batches(0).batch.items for each in (lines[0], changed)]
    assert torch.equal(*questions)


def test_an_exact_method_takes_end_to_end_trainings_course(learner):
    e2e, single = course(learner("e2e", max_steps=9)), course(learner("single_step", max_steps=9))
    for a, b in zip(e2e, single, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-3)
        assert a.validation["auc"] == pytest.approx(b.validation["auc"], abs=0.06)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_split_of_one_class_is_told_with_its_class(learner, right):
    """Its trainings end without a best: the page says why."""
    chosen = learner("e2e", cf_module="dkt", max_steps=3)
    course(chosen)
    assert chosen.undecidable() == {}
    held_out = chosen.built.workload.validation.batches

    def one_class(number):
        scored = held_out(number)
        return Scored(replace(scored.batch, targets=torch.full_like(scored.batch.targets, right)), scored.cold)

    object.__setattr__(chosen.built.workload.validation, "batches", one_class)
    again = Learner(chosen.built, chosen.settings, chosen.clock)
    assert course(again)[-1].validation["auc"] is None
    assert again.undecidable() == {"validation": f"each of its responses is {'right' if right else 'wrong'}"}


def test_a_ranking_without_a_choice_cannot_be_judged():
    scored = _tiny.workload("ranking").validation.batches(0)
    assert judging.undecidable("ranking", [scored]) is None
    mask = scored.batch.mask.clone()
    mask[:, _tiny.HISTORY + 1 :] = False
    alone = Scored(replace(scored.batch, mask=mask), scored.cold)
    assert judging.undecidable("ranking", [alone]) == "none of its impressions shows more than one candidate"


def test_a_workload_that_holds_nothing_out_is_refused(learner):
    chosen = learner("e2e")
    object.__setattr__(chosen.built.workload, "test", None)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        Learner(chosen.built, chosen.settings, chosen.clock)


def test_a_best_is_better_and_a_number():
    state = EarlyStopping(2)
    seen = []
    for value in (None, 0.5, 0.5, math.nan, 0.6):
        state = state.after(value)
        seen.append((state.is_best, state.over))
    assert seen == [(False, False), (True, False), (False, False), (False, True), (True, False)]


def test_noam_rises_to_its_rate_and_falls_with_the_root():
    factor = schedules.factor(TrainSettings(schedule="noam", warmup_steps=4))
    assert [factor(step) for step in (0, 3, 15)] == [0.25, 1.0, 0.5]
    constant = schedules.factor(TrainSettings(schedule="constant", warmup_steps=4))
    assert [constant(step) for step in (0, 3, 15)] == [0.25, 1.0, 1.0]
    assert schedules.factor(TrainSettings(schedule="constant", warmup_steps=0))(0) == 1.0
