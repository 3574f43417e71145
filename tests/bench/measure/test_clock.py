"""Warm-up, window sizing and budgets on a clock that the test moves: nothing here sleeps."""

import gc
from dataclasses import dataclass

import pytest

from bench.measure.clock import HostClock, Window, lead_in_units, samples, settled, timed, units_per_window, warm_up


@pytest.fixture(scope="module", autouse=True)
def _cheap_collections():
    """A worker freezes what it has imported, and so do these tests: each window collects garbage."""
    gc.freeze()
    yield
    gc.unfreeze()


class ManualClock:
    """Time passes only where a test says so; notes the order of what is asked of it."""

    def __init__(self, events: tuple["Mark", "Mark"] | None = None):
        self.time_s = 1000.0
        self.log: list[str] = []
        self._events = events

    def pass_s(self, seconds: float) -> None:
        self.time_s += seconds

    def now(self) -> float:
        self.log.append("now")
        return self.time_s

    def synchronise(self) -> None:
        self.log.append("synchronise")

    def marks(self):
        self.log.append("marks")
        return self._events


class Mark:
    """An event of a device whose clock runs at half the speed of the host's."""

    def __init__(self):
        self.clock: ManualClock | None = None

    def record(self) -> None:
        assert self.clock is not None
        self.clock.log.append("mark")
        self.at_s = self.clock.time_s

    def elapsed_time(self, end: "Mark") -> float:
        return (end.at_s - self.at_s) / 2 * 1e3


@dataclass(frozen=True)
class Settings:
    samples: int = 5
    min_samples: int = 3
    window_s: float = 0.1
    window_steps: int | None = None
    min_warmup_steps: int = 2
    max_warmup_steps: int = 30
    budget_s: float = 20.0


def stepper(clock: ManualClock, times_s: list[float], steps: int = 1, outside_s: float = 0.0):
    """A unit of `steps` steps that takes the next time of the list (its last one for ever), and more outside."""
    remaining = list(times_s)

    def unit() -> Window:
        seconds = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        clock.pass_s(outside_s)
        return timed(lambda: clock.pass_s(seconds), steps, clock)

    return unit


class TestTimed:
    def test_only_the_work_lies_between_the_two_readings_of_the_clock(self):
        clock = ManualClock()
        window = timed(lambda: (clock.log.append("work"), clock.pass_s(0.25)), 5, clock)
        assert clock.log == ["marks", "synchronise", "now", "work", "synchronise", "now"]
        assert (window.seconds, window.steps, window.step_s) == (0.25, 5, 0.05)
        assert window.device_seconds is None
        assert window.device_step_s is None

    def test_device_events_stand_beside_the_wall_clock(self):
        events = Mark(), Mark()
        clock = ManualClock(events)
        for event in events:
            event.clock = clock
        window = timed(lambda: clock.pass_s(0.5), 1, clock)
        assert clock.log == ["marks", "synchronise", "now", "mark", "mark", "synchronise", "now"]
        assert (window.seconds, window.device_seconds) == (0.5, 0.25)

    def test_garbage_is_not_collected_within_and_is_again_afterwards(self):
        enabled = []
        timed(lambda: enabled.append(gc.isenabled()), 1, ManualClock())
        assert enabled == [False]
        assert gc.isenabled()

    def test_garbage_collection_comes_back_when_the_work_fails(self):
        with pytest.raises(ZeroDivisionError):
            timed(lambda: 1 / 0, 1, ManualClock())
        assert gc.isenabled()

    def test_the_hosts_clock_moves(self):
        clock = HostClock()
        window = timed(lambda: sum(range(10_000)), 1, clock)
        assert 0 < window.seconds < 10


class TestWarmUp:
    def warm(self, times_s: list[float], steps: int = 1, **settings) -> list[float]:
        clock = ManualClock()
        done = warm_up(stepper(clock, times_s, steps), Settings(**settings), clock)
        assert done.spent_s == pytest.approx(sum(unit.seconds for unit in done.units[1:]))
        assert done.steps == steps * len(done.units)
        return [unit.step_s for unit in done.units]

    def test_ends_once_the_median_of_five_stands_still(self):
        """Eight falling first steps: it must not end while they are leaving the median, nor go on for long after."""
        units = self.warm([0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01], budget_s=1e9)
        assert len(units) == 11
        assert settled(units)

    def test_steady_steps_need_six(self):
        assert len(self.warm([0.01])) == 6

    def test_of_long_steps_fewer_tell_as_much(self):
        assert [len(self.warm([seconds], budget_s=1e9)) for seconds in (0.1, 0.17, 0.3, 5.0)] == [6, 4, 3, 3]
        assert len(self.warm([8.0, 7.0, 6.0, 5.0, 4.0], budget_s=1e9)) == 7

    def test_units_of_before_are_like_the_first(self):
        clock, before = ManualClock(), [Window(1, 9.0), Window(1, 7.0)]
        done = warm_up(stepper(clock, [0.17]), Settings(min_warmup_steps=5), clock, taken=before)
        assert [unit.seconds for unit in done.units] == pytest.approx([9.0, 7.0, 0.17, 0.17, 0.17])
        assert done.spent_s == pytest.approx(3 * 0.17)

    def test_never_settling_steps_end_at_the_most_steps(self):
        assert len(self.warm([1e-6 * 1.5**i for i in range(40)])) == 30

    def test_half_of_the_budget_ends_it(self):
        assert len(self.warm([1.0, 3.0, 2.0, 4.0], budget_s=10.0)) == 3

    def test_the_first_unit_is_initialisation_and_free(self):
        """Twenty seconds of compilation must not leave a fast step with no warm-up and no samples."""
        assert len(self.warm([20.0, 0.01], budget_s=1.0)) == 6

    def test_the_fewest_steps_are_taken_whatever_they_cost(self):
        assert len(self.warm([100.0], min_warmup_steps=3, budget_s=1.0)) == 3
        assert len(self.warm([100.0], min_warmup_steps=1, max_warmup_steps=1)) == 1

    def test_whole_intervals_count_as_their_steps(self):
        """One interval of sixteen steps satisfies a minimum of two; thirty steps are reached in the second."""
        assert len(self.warm([90.0], steps=16, max_warmup_steps=16)) == 1
        assert len(self.warm([1e-3], steps=16)) == 2

    def test_units_that_still_reserve_memory_are_free_and_never_the_last(self):
        """Batches of varying sizes make an allocator grow for many steps, each far slower than those to come."""
        clock, reserved = ManualClock(), iter([1, 2, 3, 4, 4, 5] + [5] * 30)
        unit = stepper(clock, [9.0, 5.0, 5.0, 5.0, 0.1, 5.0, 0.1])
        done = warm_up(unit, Settings(budget_s=4.0), clock, lambda: next(reserved))
        assert [w.seconds for w in done.units[:6]] == pytest.approx([9.0, 5.0, 5.0, 5.0, 0.1, 5.0])
        assert len(done.units) >= 6 + 5
        assert done.spent_s == pytest.approx(0.1 * (len(done.units) - 5))

    def test_reserving_for_ever_ends_at_the_most_steps(self):
        clock, reserved = ManualClock(), iter(range(100))
        assert len(warm_up(stepper(clock, [0.1]), Settings(), clock, lambda: next(reserved)).units) == 30


def test_a_median_that_moves_by_two_per_cent_is_not_settled():
    assert not settled([1.0] * 5)
    assert settled([1.0] * 6)
    assert not settled([1.0, 1.0, 1.0, 1.02, 1.02, 1.02])
    assert settled([1.0, 1.0, 1.0, 1.019, 1.019, 1.019])
    assert not settled([1.0, 1.0, 1.0, 0.97, 0.97, 0.97])


def test_a_window_holds_as_many_units_as_last_long_enough():
    short, long = Settings(), Settings(window_s=1.0)
    assert units_per_window([Window(1, 0.03)], short, 1) == 4
    assert units_per_window([Window(16, 5.0)], short, 16) == 1
    assert units_per_window([Window(4, 0.1)], long, 16) == 3  # the first steps of an interval, whose pace the rest has
    assert units_per_window([Window(1, 9.0), *[Window(1, 0.05)] * 5], short, 1) == 2
    assert units_per_window([Window(1, 0.0)], short, 1) == 1


def test_a_window_of_so_many_steps_holds_whole_intervals():
    for interval, units in ((1, 5), (2, 3), (5, 1), (16, 1)):
        assert units_per_window([Window(1, 9.0)], Settings(window_steps=5), interval) == units


def test_a_window_lasts_at_least_as_long_as_it_is_told():
    assert units_per_window([Window(1, 0.03)], Settings(), 1, least_s=0.25) == 9
    assert units_per_window([Window(1, 0.03)], Settings(window_s=1.0), 1, least_s=0.25) == 34
    assert units_per_window([Window(1, 0.03)], Settings(window_steps=2), 1, least_s=0.25) == 2


def test_a_lead_in_is_whole_units_and_none_before_one_that_settles_by_itself():
    assert lead_in_units([Window(1, 0.03)], 1, 0.2) == 7
    assert lead_in_units([Window(1, 0.17)], 1, 0.2) == 2
    assert lead_in_units([Window(1, 0.9)], 1, 0.2) == 1
    assert lead_in_units([Window(1, 1.1)], 1, 0.2) == lead_in_units([Window(8, 1.0)], 16, 0.2) == 0
    assert lead_in_units([Window(1, 0.03)], 1, 0.0) == lead_in_units([Window(1, 0.0)], 1, 0.2) == 0


class TestSamples:
    def take(self, settings: Settings, unit_s: float, spent_s: float = 0.0, outside_s: float = 0.0) -> int:
        clock = ManualClock()
        return len(list(samples(stepper(clock, [unit_s], outside_s=outside_s), settings, clock, spent_s)))

    def test_all_are_taken_while_the_budget_lasts(self):
        assert self.take(Settings(), unit_s=0.1) == 5

    def test_none_is_begun_that_would_overrun_the_budget(self):
        assert self.take(Settings(budget_s=20), unit_s=4.0, spent_s=3.0) == 4
        assert self.take(Settings(budget_s=20), unit_s=4.0, spent_s=4.0) == 4
        assert self.take(Settings(budget_s=20), unit_s=4.0, spent_s=4.1) == 3

    def test_the_fewest_are_taken_whatever_they_cost(self):
        assert self.take(Settings(budget_s=1), unit_s=50.0, spent_s=100.0) == 3
        assert self.take(Settings(samples=2, min_samples=3), unit_s=0.1) == 3

    def test_making_batches_spends_the_budget_too(self):
        assert self.take(Settings(budget_s=20), unit_s=0.1, outside_s=5.0) == 3
