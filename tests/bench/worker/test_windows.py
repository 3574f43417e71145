"""What windows are taken on, when one is taken again, and what a step without the encoder takes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from bench.measure.sample import LEAST
from bench.processes.messages import Job, TakeWindow
from bench.worker.afterwards import cf_step_s
from bench.worker.subject import TAKES, Subject
from gram_core.batch import Batch
from gram_core.engines._captured import Captured, GraphPool
from tests.bench._small_runs import config, item
from tests.bench.measure.test_clock import ManualClock

READY_S, STEP_S = 5.0, 0.25


class Planted(Captured):
    """A method whose steps take as long as it says: longer while a batch's users have not been met `meetings` times."""

    functions = ()

    def __init__(self, method: Any, clock: ManualClock, meetings: int):
        self._method, self._clock, self._meetings = method, clock, meetings
        self._met: dict[tuple[int, ...], int] = {}
        self._ready = 0
        self._pool = GraphPool(torch.device("cpu"))
        self.interval = method.interval

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def made_ready(self) -> int:
        return self._ready

    def step(self, batch: Batch) -> torch.Tensor:
        key = tuple(batch.items.flatten().tolist())
        self._met[key] = self._met.get(key, 0) + 1
        new = self._met[key] <= self._meetings
        self._ready += new
        self._clock.pass_s(READY_S if new else STEP_S)
        return torch.tensor(1.0)


def subject(meetings: int = 0, method: str = "single_step", **settings: Any) -> Subject:
    clock = ManualClock()
    made = Subject(Job(config(**{"budget_s": 1000.0, **settings}), item(method)), clock)
    made.set_up()
    made._built = dataclasses.replace(made.built, method=Planted(made.built.method, clock, meetings))
    return made


def measured(made: Subject) -> Subject:
    """The same once it has warmed up and taken its windows."""
    made.warm_up()
    made.take_windows()
    return made


def timed_batches(made: Subject) -> list[list[list[int]]]:
    return [batch.items.tolist() for window in made._measured for batch in window]


@pytest.mark.parametrize("other", [dict(min_warmup_steps=9, max_warmup_steps=9), dict(meetings=1)], ids=str)
def test_every_line_is_timed_on_the_same_batches(other: dict[str, int]) -> None:
    """However long it warms up, and whatever it takes again."""
    timed = [timed_batches(measured(one)) for one in (subject(), subject(**other))]
    assert len(timed[0]) == 3
    assert timed[0] == timed[1]
    assert timed[0][0] != timed[0][1]


def test_a_faster_line_goes_round_the_same_batches() -> None:
    """On further ones, of another load, a ratio of the two times would hold that load as well; on one alone for a whole
    window, a step would find all as its predecessor left it, which in training no step does."""
    timed = []
    for window_s in (STEP_S, 5 * STEP_S):
        one = measured(subject(window_s=window_s))
        timed.append(timed_batches(one))
        assert one.record().item_repetition_ratio == one._sample.item_repetition_ratio  # type: ignore[union-attr]
    assert timed[1] == [timed[0][(window + step) % 3] for window in range(3) for step in range(5)]
    assert [timed[1].count(batch) for batch in timed[0]] == [5] * 3


@pytest.mark.parametrize(("settings", "batches"), [(dict(min_samples=1), 2), (dict(blocks=2, rounds=5), 5)])
def test_there_are_as_many_batches_as_windows_for_sure_but_never_one(settings: dict[str, Any], batches: int) -> None:
    one = measured(subject(window_s=7 * STEP_S, **settings))
    timed = timed_batches(one)
    assert sum(batch not in timed[:place] for place, batch in enumerate(timed)) == batches
    assert all(batch != following for batch, following in itertools.pairwise(timed[:7]))
    assert one._facts()["detail"]["timed_batches"] == batches


def test_windows_beyond_those_that_every_line_takes_are_on_the_same_batches() -> None:
    """A line that the budget lets take more windows is on no other batches than one that takes the fewest."""
    timed = []
    for samples in (3, 5):
        one = measured(subject(samples=samples, min_samples=3))
        timed.append(timed_batches(one))
    assert (len(timed[0]), len(timed[1])) == (3, 5)
    assert timed[1] == [*timed[0], *timed[0][:2]]
    detail = one._facts()["detail"]
    assert (detail["timed_batches"], detail["timed_typical"], detail["ratio_batches"]) == (3, True, LEAST)


@pytest.mark.parametrize("method", ["multi_step", "single_step"])
def test_a_line_that_keeps_encodings_meets_new_batches_from_the_first_of_an_epoch_on(method: str) -> None:
    """Stepped on twice, a batch would find its own encodings as fresh as no other batch of the log does."""
    timed = []
    for window_s in (STEP_S, 5 * STEP_S):
        one = subject(method=method, window_s=window_s)
        changed = {"workload": dataclasses.replace(one.built.workload, steps_per_epoch=7), "exactness": "stale"}
        one._built = dataclasses.replace(one.built, **changed)
        one.warm_up()
        assert one._batches_made % 7 == 0
        one.take_windows()
        timed.append(timed_batches(one))
    assert len(timed[1]) == len(timed[0]) * (5 if method == "single_step" else 1)
    assert timed[1][: len(timed[0])] == timed[0]
    assert all(batch not in timed[0][:place] for place, batch in enumerate(timed[0]))


def test_lines_of_unequal_speed_are_timed_on_the_same_batches_where_steps_are_counted() -> None:
    """By time the faster one would go on to batches of another load, and a ratio of the two would hold that as well."""
    timed = []
    for window_s, method in ((STEP_S, "single_step"), (5 * STEP_S, "e2e"), (STEP_S, "multi_step")):
        one = measured(subject(method=method, window_s=window_s, window_steps=3))
        assert {window.steps for window in one.windows} == {3 if method != "multi_step" else one.built.method.interval}
        timed.append(timed_batches(one))
    assert timed[0] == timed[1]
    assert timed[2][: len(timed[0])] == timed[0]


def test_what_fails_in_the_warm_up_of_a_long_interval_still_says_how_large_it_was() -> None:
    one = Subject(Job(config(), item("multi_step", accumulation_steps=4)))
    one.set_up()
    known = one.known()
    assert known["unique_items"] > 0
    assert known["encoded_tokens"] > 0
    assert known["interval_unique_items"] is None


@pytest.mark.parametrize("meetings", [0, 1, 2])
def test_a_window_in_which_something_became_ready_is_set_up(meetings: int) -> None:
    one = subject(meetings)
    one.warm_up()
    before_s, steps = one._initialised_s() or 0.0, one._units_per_window
    one.take_windows()
    assert [window.step_s for window in one.windows] == [STEP_S] * 3
    facts = one._facts()
    assert facts["setup_s"] == pytest.approx(before_s + 3 * meetings * steps * (READY_S - STEP_S))
    assert facts["detail"].get("windows_taken_again", 0) == 3 * meetings


def test_what_never_settles_is_measured_as_it_is() -> None:
    one = subject(meetings=1000)
    one.warm_up()
    assert one.window().step_s == READY_S
    assert one._facts()["detail"]["windows_taken_again"] == TAKES - 1


def test_no_step_is_lost_to_a_window_taken_again() -> None:
    """What is told to the manager is the take that was kept."""
    one = subject(meetings=1)
    one.warm_up()
    told = one.window_message(TakeWindow())
    assert (told.seconds, told.discarded_s) == (STEP_S * told.steps, READY_S * told.steps)
    assert len(one._measured) == len(one.windows) == 1


def test_a_lead_in_steps_on_batches_of_its_own_and_is_not_timed() -> None:
    """Methods that reuse encodings would find the window's fresh, had the lead-in stepped on them."""
    plain, led_in = subject(), subject()
    for one in (plain, led_in):
        one._built = dataclasses.replace(one.built, exactness="stale")
        one.warm_up()
    orders = TakeWindow(), TakeWindow(lead_in_s=3 * STEP_S, least_s=2 * STEP_S)
    told = [one.window_message(order) for one, order in zip((plain, led_in), orders, strict=True)]
    assert [each.led_in_s for each in told] == [0, 3 * STEP_S]
    assert [(each.seconds, each.steps) for each in told] == [(STEP_S, 1), (2 * STEP_S, 2)]
    assert timed_batches(led_in)[:1] == timed_batches(plain)
    again = led_in.window_message(orders[1])
    assert (again.led_in_s, again.steps) == (3 * STEP_S, 2)
    met = led_in.built.method._met  # type: ignore[attr-defined]
    timed = {tuple(batch.items.flatten().tolist()) for window in led_in._measured for batch in window}
    assert len(met) >= led_in.warm.steps + 2 * 3 + 2 * 2
    assert all(met[key] == 1 for key in timed)


def test_what_becomes_ready_in_a_lead_in_takes_no_window_again() -> None:
    one = subject(meetings=1)
    one.warm_up()
    one.window_message(TakeWindow(lead_in_s=READY_S))
    assert one._facts()["detail"]["windows_taken_again"] == 1, "by what the window itself met"


def test_a_long_window_is_not_taken_again() -> None:
    one = subject(meetings=1000, window_s=3 * READY_S)
    one.warm_up()
    one.window()
    assert "windows_taken_again" not in one._facts()["detail"]


class TestLongIntervals:
    class Interval:
        """Encoding takes 8 s an item, a CF step 0.5 s, the encoder's pass 100 s."""

        def __init__(self, one: Subject, interval: int):
            self.interval, self._clock, self.training = interval, one.clock, one.built.training
            self._met: set[int] = set()
            self._steps = 0

        def step(self, batch: Batch) -> torch.Tensor:
            new = set(batch.items[batch.mask].tolist()) - self._met
            self._clock.pass_s(0.5 + 8 * len(new))
            self._met |= new
            self._steps += 1
            if self._steps == self.interval:
                self.finish()
            return torch.tensor(1.0)

        def finish(self) -> None:
            self._clock.pass_s(100.0 if self._steps else 0.0)
            self._met, self._steps = set(), 0

    @pytest.mark.parametrize("interval", [4, 40])
    def test_they_are_not_waited_for_to_warm_up(self, interval: int) -> None:
        """max_warmup_steps are enough of them; a window is whole ones."""
        one = subject(max_warmup_steps=6)
        assert isinstance(one.clock, ManualClock)
        method = self.Interval(one, interval)
        one._built, one._ahead = dataclasses.replace(one.built, method=method), []
        one.warm_up()
        assert not method._steps, "an interval was left open"
        assert one.warm.steps == {4: 8, 40: 6}[interval]
        assert one.window().steps == interval

    @pytest.mark.parametrize(("interval", "expected"), [(1, None), (2, None), (3, 0.5), (16, 0.5), (500, 0.5)])
    def test_they_are_timed_within_an_interval(self, interval: int, expected: float | None) -> None:
        one = subject()
        assert isinstance(one.clock, ManualClock)
        method = self.Interval(one, interval)
        one._built = dataclasses.replace(one.built, method=method)
        one.steps(units=1)
        assert cf_step_s(method, one._stepping[-1], one._timed) == expected
        assert not method._steps, "an interval was left open"

    @pytest.mark.parametrize(("steps_per_epoch", "told"), [(100, True), (None, False)])
    def test_they_are_told_of_logs_with_epochs(self, steps_per_epoch: int | None, told: bool) -> None:
        one = Subject(Job(config(), item("multi_step", accumulation_steps=4)))
        one.set_up()
        workload = dataclasses.replace(one.built.workload, steps_per_epoch=steps_per_epoch)
        one._built = dataclasses.replace(one.built, workload=workload)
        measured(one)
        record = one.record()
        assert (record.cf_step_s is not None) is told
        assert record.cf_step_s is None or 0 < record.cf_step_s < 4 * max(record.samples_s)
