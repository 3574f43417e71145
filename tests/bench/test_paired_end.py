"""When paired blocks are enough: precision, the most blocks, the budget; and what a round or a canary counts for."""

import pytest

from bench.configuration import sweep
from bench.configuration.sweep import key_of
from bench.measure.telemetry import Reading
from bench.results import stats
from bench.running.events import Extended, Finished, Started
from tests.bench._paired import CANARY, E2E, SINGLE_STEP, items, of, run, settings, short, sweep_of
from tests.bench._small_runs import new_run


class TestEnd:
    def steps(self, tmp_path, **run_settings):
        chosen = settings(rounds=1, **run_settings)
        return run(chosen, new_run(tmp_path, chosen), items())

    def test_precision_ends_a_case(self, tmp_path):
        counts, events, records = self.steps(tmp_path, max_blocks=9, half_width=0.999999, window_s=0.02)
        values = stats.block_values(records[::2], records[1::2])
        assert stats.enough(list(values.values()), half_width=0.999999, least=2, most=9)
        assert not stats.enough(list(values.values())[:-1], half_width=0.999999, least=2, most=9)
        assert of(events, Extended) == [Extended(2 * blocks) for blocks in range(3, len(values) + 1)]
        assert counts.total == 2 * len(values)

    def test_the_most_blocks_end_a_case(self, tmp_path):
        _, events, records = self.steps(tmp_path, max_blocks=3, half_width=1e-9)
        assert [record.block for record in records] == [0, 0, 1, 1, 2, 2]
        assert of(events, Extended) == [Extended(6)]
        finished = of(events, Finished)
        assert [(event.number, event.total) for event in finished][-2:] == [(5, 6), (6, 6)]

    def test_the_budget_ends_a_case_once_it_has_the_least(self, tmp_path):
        _, events, records = self.steps(tmp_path, max_blocks=9, half_width=1e-9, case_budget_s=0.001)
        assert [record.block for record in records] == [0, 0, 1, 1]
        assert of(events, Extended) == []


class TestCanary:
    def test_the_reference_is_measured_against_itself(self, tmp_path):
        chosen = settings(canary=True).model_copy(update={"sweep": sweep_of("e2e", "single_step")})
        work = sweep.plan(chosen)
        _, events, records = run(chosen, new_run(tmp_path, chosen), work)
        assert [key_of(record) for record in records] == [item.key for item in work]
        assert [(r.method, r.replica) for r in records if not r.block] == [E2E, SINGLE_STEP, CANARY]
        assert stats.canary(records).blocks == 2
        assert len(of(events, Started)) == 2 + 6, "e2e's memory is the canary's"


class Slowing:
    """Watches a device at its power cap that gets too hot in some windows, counted from 1."""

    def __init__(self, *slow: int):
        self.slow, self.windows = slow, 0

    def between(self, began_s, ended_s):
        self.windows += 1
        hot = self.windows in self.slow
        reasons = frozenset({"sw_power_cap", *(["hw_thermal_slowdown"] if hot else [])})
        clock = 900.0 if hot else 700.0
        return [
            Reading(at_s, clock, energy_j=e, throttle_reasons=reasons) for at_s, e in ((began_s, 0.0), (ended_s, 3.0))
        ]

    def forget(self):
        pass


class TestDroppedRounds:
    def test_a_slowdown_of_one_line_drops_the_round_for_all_and_another_is_taken(self, tmp_path):
        """Windows 1 and 2 are the memory's; window 4 is the second one of the first round."""
        chosen = settings(blocks=1, max_blocks=1, canary=True)
        watch = Slowing(4)
        _, _, records = run(chosen, new_run(tmp_path, chosen), items(blocks=1), watch=watch)
        assert watch.windows == 2 + 3 * 2
        for record in records:
            assert (record.outcome, record.rounds, len(record.samples_s)) == ("ok", (1, 2), 2)
            assert record.dropped_rounds == ("round 0: hw_thermal_slowdown",)
            assert record.telemetry.sm_clock_mhz.max == 700
            assert record.telemetry.energy_j == pytest.approx(6.0)
            slots = record.item_slots * record.steps_per_sample * 2
            assert record.telemetry.energy_per_1000_interactions_j == pytest.approx(6000 / slots)

    def test_a_block_without_a_round_is_skipped_and_the_next_one_tried(self, tmp_path):
        chosen = settings()
        watch = Slowing(*range(3, 3 + 2 * 2 * 2))
        _, _, records = run(chosen, new_run(tmp_path, chosen), items(), watch=watch)
        assert short(records) == [
            ("e2e", 0, 0, "skipped"), ("single_step", 0, 0, "skipped"),
            ("e2e", 0, 1, "ok"), ("single_step", 0, 1, "ok"),
        ]  # fmt: skip
        assert records[0].reason == "every round was dropped; round 0: hw_thermal_slowdown"
        assert len(records[0].dropped_rounds) == 4
        assert records[0].item_slots is not None
