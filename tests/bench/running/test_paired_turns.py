"""Paired blocks over real processes: whose turn it is, who is resident, and what a worker costs beside its work."""

import itertools
import subprocess
import sys
import time

import pytest

from bench.results import store
from bench.results.analysis import stats
from bench.running import block, manager
from bench.running.counterbalance import in_round
from bench.running.events import BlockBegan, Finished, PhaseBegan, Planned, Started, TookTurn
from bench.running.recording import overhead
from bench.worker.subject import READYING_UNITS
from tests.bench._paired import items, no_room, of, settings, short
from tests.bench._small_runs import config, new_run, run


class TestTurns:
    @pytest.fixture(scope="class", params=["one after another", "set up together"])
    @classmethod
    def witnessed(cls, request, tmp_path_factory):
        """Three processes of one method that notes when it computes, in two blocks."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(block, "SET_UP_TOGETHER", ("cpu",) if request.param == "set up together" else ())
            yield cls.run_witnesses(tmp_path_factory)

    @classmethod
    def run_witnesses(cls, tmp_path_factory):
        log = tmp_path_factory.mktemp("log") / "log"
        chosen = settings({"witness": {"log": str(log)}}, rounds=3)
        run_dir = new_run(tmp_path_factory.mktemp("runs"), chosen)
        work = items([("witness", replica) for replica in range(3)])
        _, events, records = run(chosen, run_dir, work)
        computed = [line.split() for line in log.read_text().splitlines()]
        return work, events, records, sorted((float(b), float(e), int(pid)) for pid, b, e in computed)

    def test_only_one_computes_at_a_time(self, witnessed):
        *_, computed = witnessed
        assert len({pid for *_, pid in computed}) == 1 + 3 + 3, "one for the memory, three per block"
        if block.SET_UP_TOGETHER:  # making the method and the first units are set-up, and tell no time
            own = itertools.groupby(sorted(computed, key=lambda step: step[2]), lambda step: step[2])
            computed = sorted(itertools.chain(*(list(steps)[1 + READYING_UNITS :] for _, steps in own)))
        for (_, ended, one), (began, _, other) in itertools.pairwise(computed):
            assert ended <= began, f"{one} and {other} computed at once"

    def test_they_are_resident_together(self, witnessed):
        """Otherwise the rounds of one block would not see the same minute."""
        *_, computed = witnessed
        lives = {pid: (began, ended) for began, ended, pid in reversed(computed)}
        last = {pid: ended for _, ended, pid in computed}
        block = sorted(lives, key=lambda pid: lives[pid][0])[-3:]
        assert max(lives[pid][0] for pid in block) < min(last[pid] for pid in block)

    def test_rounds_are_counterbalanced_and_each_block_begins_with_another_order(self, witnessed):
        work, events, *_ = witnessed
        turns = [event for event in of(events, TookTurn)][1:]  # the first one is the memory's
        seen = [(turn.item.block, turn.round, turn.item.replica) for turn in turns]
        lines = [item.replica for item in work if not item.block]
        assert seen == [
            (block, number, replica)
            for block in range(2)
            for number in range(3)
            for replica in in_round(lines, block + number)
        ]

    def test_none_warms_up_before_all_are_set_up_where_that_is_done_together(self, witnessed):
        work, events, *_ = witnessed
        phases = [(event.item.block, event.phase) for event in of(events, PhaseBegan)]
        last_begun = max(place for place, found in enumerate(phases) if found == (1, "setup"))
        first_warm = phases.index((1, "warm-up"))
        together = "cpu" in block.SET_UP_TOGETHER
        assert (last_begun < first_warm) == together
        assert phases.count((1, "warm-up")) == len(work) / 2

    def test_turns_follow_each_other(self, witnessed):
        _, events, *_ = witnessed
        turns = of(events, TookTurn)
        assert all(one.ended_s <= other.began_s for one, other in itertools.pairwise(turns))

    def test_each_sample_has_its_round(self, witnessed):
        *_, records, _ = witnessed
        assert {record.schedule for record in records} == {"interleaved"}
        assert {record.rounds for record in records} == {(0, 1, 2)}
        assert {len(record.samples_s) for record in records} == {3}
        assert {record.block_records for record in records} == {3}

    def test_what_a_worker_costs_beside_its_work_is_known_and_small(self, witnessed):
        """With the fork server warm, less than importing alone would take, on this machine as busy as it is."""
        *_, records, _ = witnessed
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        importing_s = time.monotonic() - began
        for record in records:
            windows_s = sum(record.samples_s) * record.steps_per_sample
            parts_s = record.setup_s + record.detail.warm_up_s + windows_s + record.overhead_s
            assert parts_s == pytest.approx(record.detail.held_s)
            assert 0 < record.overhead_s < importing_s
        assert overhead(records).endswith(f"at most {max(r.overhead_s for r in records):.2f} s (6 processes).")
        assert overhead([record.model_copy(update={"overhead_s": None})]) is None


class TestAlternation:
    def test_workers_without_room_run_one_after_another(self, tmp_path):
        chosen = settings()
        _, events, records = run(chosen, new_run(tmp_path, chosen), items(), free=no_room)
        assert {record.schedule for record in records} == {"alternated"}
        assert {(len(record.samples_s), record.rounds) for record in records} == {(2, ())}
        assert [event.schedule for event in of(events, BlockBegan)] == ["solo", "alternated", "alternated"]
        turns = [(turn.item.block, turn.item.line.method) for turn in of(events, TookTurn)][2:]
        assert turns == [
            (0, "e2e"), (0, "e2e"), (0, "single_step"), (0, "single_step"),
            (1, "single_step"), (1, "single_step"), (1, "e2e"), (1, "e2e"),
        ]  # fmt: skip
        assert short(records) == [(i.line.method, 0, i.block, "ok") for i in items()]
        assert len(stats.block_values(records[::2], records[1::2])) == 2

    def test_memory_of_the_same_process_costs_none_besides(self, tmp_path):
        """Its first block is alternated: before it nobody knows what the lines need."""
        chosen = settings(memory="same")
        run_dir = new_run(tmp_path, chosen)
        _, events, records = run(chosen, run_dir, items())
        assert [event.schedule for event in of(events, BlockBegan)] == ["alternated", "interleaved"]
        assert len(of(events, Started)) == 4
        assert [record.detail.memory for record in records] == ["solo", "solo", "same", "same"]

    def test_solo_peaks_stand_in_every_record(self, tmp_path):
        chosen = settings()
        _, events, records = run(chosen, new_run(tmp_path, chosen), items())
        assert len(of(events, Started)) == 2 + 4
        peaks = {record.method: set() for record in records}
        for record in records:
            peaks[record.method].add(record.peak_memory_bytes.process)
        assert all(len(found) == 1 for found in peaks.values())
        assert {record.detail.memory for record in records} == {"solo"}

    def test_running_out_beside_neighbours_is_no_outcome(self, tmp_path):
        chosen = settings({"crowds_out": {"device": str(tmp_path / "device")}})
        run_dir = new_run(tmp_path, chosen)
        work = items([("crowds_out", 0), ("crowds_out", 1)])
        _, events, records = run(chosen, run_dir, work)
        assert short(records) == [(i.line.method, i.replica, i.block, "ok") for i in work]
        assert {record.schedule for record in records} == {"alternated"}
        schedules = [event.schedule for event in of(events, BlockBegan)]
        assert schedules == ["solo", "interleaved", "alternated", "alternated"]


class TestModes:
    def test_one_block_without_canary_is_as_it_was(self, tmp_path):
        chosen = config()
        run_dir = new_run(tmp_path, chosen)
        events: list = []
        manager.run(chosen, run_dir, items(blocks=1), events.append)
        records = store.load(run_dir).records
        assert [type(event) for event in events] == [Planned, *[Started, *[PhaseBegan] * 4, Finished] * 2]
        assert {(record.schedule, record.block_records, record.rounds) for record in records} == {("solo", None, ())}
