"""When paired blocks are enough: precision, the most blocks, the budget; and what a round or a canary counts for."""

from itertools import pairwise

import pytest

from bench.configuration import sweep
from bench.machine.telemetry import Reading
from bench.results.analysis import stats
from bench.running.events import Extended, Finished, Started, TookTurn
from tests.bench._paired import CANARY, E2E, SINGLE_STEP, items, of, settings, short, sweep_of
from tests.bench._small_runs import new_run, run


class TestEnd:
    def steps(self, tmp_path, **run_settings):
        chosen = settings(**{"rounds": 1, **run_settings})
        return run(chosen, new_run(tmp_path, chosen), items())

    def test_precision_ends_a_case(self, tmp_path):
        counts, events, records = self.steps(tmp_path, max_blocks=6, half_width=0.999999, window_s=0.02)
        values = list(stats.block_values(records[::2], records[1::2]).values())
        loads = stats.block_loads(records[::2], records[1::2])
        assert stats.enough(values, loads, half_width=0.999999, least=2, most=6)
        assert not stats.enough(values[:-1], loads[:-1], half_width=0.999999, least=2, most=6)
        assert of(events, Extended) == [Extended(2 * blocks) for blocks in range(3, len(values) + 1)]
        assert counts.total == 2 * len(values)

    def test_the_most_blocks_end_a_case(self, tmp_path):
        _, events, records = self.steps(tmp_path, max_blocks=3, half_width=1e-9)
        assert [record.block for record in records] == [0, 0, 1, 1, 2, 2]
        assert of(events, Extended) == [Extended(6)]
        finished = of(events, Finished)
        assert [(event.number, event.total) for event in finished][-2:] == [(5, 6), (6, 6)]

    def test_the_budget_ends_a_case_once_it_has_the_least(self, tmp_path):
        """Of blocks, and of rounds in each."""
        _, events, records = self.steps(tmp_path, max_blocks=9, half_width=1e-9, case_budget_s=0.001, rounds=6)
        assert [record.block for record in records] == [0, 0, 1, 1]
        assert of(events, Extended) == []
        assert {len(record.samples_s) for record in records} == {1}, "run.min_samples"


class TestCanary:
    def test_the_reference_is_measured_against_itself(self, tmp_path):
        chosen = settings(canary=True).model_copy(update={"sweep": sweep_of("e2e", "single_step")})
        work = sweep.plan(chosen)
        _, events, records = run(chosen, new_run(tmp_path, chosen), work)
        assert [record.key for record in records] == [item.key for item in work]
        assert [(r.method, r.replica) for r in records if not r.block] == [E2E, SINGLE_STEP, CANARY]
        assert stats.canary(records).blocks == 2
        assert len(of(events, Started)) == 2 + 6, "e2e's memory is the canary's"


class Device:
    """Watches a device of 100 W that gets too hot in some windows, counted from 1, or is at its power cap from one on.

    Each worker's start counts as a window. Its energy counter changes every tenth of a millisecond.
    """

    def __init__(self, *hot: int, capped_from: float = float("inf"), mhz: float = 700.0):
        self.hot, self.capped_from, self.mhz, self.windows = hot, capped_from, mhz, 0

    def between(self, began_s, ended_s):
        self.windows += 1
        reasons = {"hw_thermal_slowdown"} if self.windows in self.hot else set()
        reasons |= {"sw_power_cap"} if self.windows >= self.capped_from else set()
        steps = range(int((ended_s - began_s) * 1e4) + 2)
        return [
            Reading(at, self.mhz, energy_j=100 * at, throttle_reasons=frozenset(reasons))
            for at in (began_s + step / 1e4 for step in steps)
        ]

    def forget(self):
        pass


class TestDroppedRounds:
    def test_a_slowdown_of_one_line_drops_the_round_for_all_and_another_is_taken(self, tmp_path):
        """Windows 1 to 4 are the memory's, 5 and 6 two starts; window 8 is the second one of the first round."""
        chosen = settings(blocks=1, max_blocks=1, canary=True)
        watch = Device(8)
        _, _, records = run(chosen, new_run(tmp_path, chosen), items(blocks=1), watch=watch)
        assert watch.windows == 2 * 2 + 2 + 3 * 2
        for record in records:
            assert (record.outcome, record.rounds, len(record.samples_s)) == ("ok", (1, 2), 2)
            assert record.dropped_rounds == ("round 0: hw_thermal_slowdown",)
            assert record.telemetry.sm_clock_mhz.max == 700
            assert record.detail.lead_in_s is None

    def test_a_block_without_a_round_is_skipped_and_the_next_one_tried(self, tmp_path):
        chosen = settings()
        watch = Device(*range(7, 7 + 2 * 2 * 2))
        _, _, records = run(chosen, new_run(tmp_path, chosen), items(), watch=watch)
        assert short(records) == [
            ("e2e", 0, 0, "skipped"), ("single_step", 0, 0, "skipped"),
            ("e2e", 0, 1, "ok"), ("single_step", 0, 1, "ok"),
        ]  # fmt: skip
        assert records[0].reason == "every round was dropped; round 0: hw_thermal_slowdown"
        assert len(records[0].dropped_rounds) == 4
        assert records[0].item_slots is not None


LED_IN = {"blocks": 1, "max_blocks": 1, "lead_in_s": 0.15, "settled_window_s": 0.25}


class TestPowerCap:
    """On a GPU at its power cap a window follows steps of its own worker that are not timed."""

    def test_windows_are_led_in_and_long_where_a_warm_up_met_the_cap(self, tmp_path):
        """Energy is the windows' time by the power between changes of the counter."""
        chosen = settings(**LED_IN)
        _, events, records = run(chosen, new_run(tmp_path, chosen), items(blocks=1), watch=Device(capped_from=6))
        for record in records:
            assert (record.rounds, record.dropped_rounds, record.detail.lead_in_s) == ((0, 1), (), 0.15)
            assert record.steps_per_sample > 1, "which last as long as run.window_s by themselves"
            assert record.telemetry.throttle_reasons == ("sw_power_cap",)
        turns = of(events, TookTurn)[2:]
        share = 0.5 * LED_IN["lead_in_s"] / LED_IN["settled_window_s"]  # whatever a step takes on a busy machine
        assert all(
            later.began_s - sooner.ended_s > share * (later.ended_s - later.began_s)
            for sooner, later in pairwise(turns)
        )
        for record in records:
            own = [turn for turn in turns if turn.item.line.method == record.method]
            seconds = sum(turn.ended_s - turn.began_s for turn in own)
            assert record.telemetry.energy_j == pytest.approx(100 * seconds, rel=0.03)
            slots = record.item_slots * record.steps_per_sample * 2
            per_slot_j = record.telemetry.energy_j / slots
            assert record.telemetry.energy_per_1000_interactions_j == pytest.approx(1000 * per_slot_j)

    def test_a_first_round_that_meets_the_cap_is_taken_again(self, tmp_path):
        """Its windows were the neighbour's as well, and shorter than the others."""
        chosen = settings(**LED_IN)
        _, _, records = run(chosen, new_run(tmp_path, chosen), items(blocks=1), watch=Device(capped_from=7))
        for record in records:
            assert (record.rounds, record.dropped_rounds, record.detail.lead_in_s) == ((1, 2), (), 0.15)
            assert record.steps_per_sample > 1

    def test_later_blocks_know_it(self, tmp_path):
        chosen = settings(**{**LED_IN, "blocks": 2, "max_blocks": 2})
        _, _, records = run(chosen, new_run(tmp_path, chosen), items(), watch=Device(capped_from=10))
        assert [record.detail.lead_in_s for record in records] == [None, None, 0.15, 0.15]
        assert {record.rounds for record in records} == {(0, 1)}
