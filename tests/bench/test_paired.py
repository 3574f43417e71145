"""Paired blocks over real processes: whose turn it is, when it is enough, what failures cost, what resuming finds."""

import contextlib
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from bench.configuration import sweep
from bench.configuration.config import Config, Sweep
from bench.configuration.sweep import MethodLine, WorkItem, key_of
from bench.measure.room import Room
from bench.measure.telemetry import Reading
from bench.results import stats, store
from bench.results.schema import PeakMemory, Record
from bench.running import manager, paired
from bench.running.events import BlockBegan, Extended, Finished, PhaseBegan, Planned, Started, TookTurn
from bench.running.recording import RunCounts, overhead
from bench.running.rounds import in_round
from bench.running.turns import Measurement
from tests.bench._small_runs import CASE, config, new_run

ROOT = Path(__file__).parents[2]
PLUGINS = ["tests.bench.faulty_methods", "tests.bench.paired_methods"]
PATIENCE_S = 60
E2E, CANARY, SINGLE_STEP = ("e2e", 0), ("e2e", 1), ("single_step", 0)
PAIR = (E2E, SINGLE_STEP)
OVERHEAD_S = 1.5


def settings(method=None, **run) -> Config:
    """Two blocks, of two rounds, and no more."""
    quick = {"blocks": 2, "max_blocks": 2, "rounds": 2, "min_samples": 1, "plugins": PLUGINS, "budget_s": 20.0}
    return config(method, **{**quick, **run})


def items(lines: Sequence[tuple[str, int]] = PAIR, blocks: int = 2) -> list[WorkItem]:
    return [
        WorkItem(CASE, MethodLine(method, "eager"), block, replica)
        for block in range(blocks)
        for method, replica in lines
    ]


def run(chosen: Config, run_dir: Path, work, **injected) -> tuple[RunCounts, list, tuple[Record, ...]]:
    events: list = []
    counts = paired.run(chosen, run_dir, work, events.append, **injected)
    return counts, events, store.load(run_dir).records


def of(events: list, kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def short(records) -> list[tuple[str, int, int, str]]:
    return [(record.method, record.replica, record.block, record.outcome) for record in records]


def no_room() -> Room:
    return Room(host=1)


class TestTurns:
    @pytest.fixture(scope="class")
    @classmethod
    def witnessed(cls, tmp_path_factory):
        """Three processes of one method that notes when it computes, in two blocks."""
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
        """The promise of the design, with the fork server warm, as it is from the second worker on."""
        *_, records, _ = witnessed
        for record in records:
            windows_s = sum(record.samples_s) * record.steps_per_sample
            parts_s = record.setup_s + record.detail["warm_up_s"] + windows_s + record.overhead_s
            assert parts_s == pytest.approx(record.detail["held_s"])
            assert 0 < record.overhead_s <= OVERHEAD_S
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
        assert [record.detail["memory"] for record in records] == ["solo", "solo", "same", "same"]

    def test_solo_peaks_stand_in_every_record(self, tmp_path):
        chosen = settings()
        _, events, records = run(chosen, new_run(tmp_path, chosen), items())
        assert len(of(events, Started)) == 2 + 4
        peaks = {record.method: set() for record in records}
        for record in records:
            peaks[record.method].add(record.peak_memory_bytes.process)
        assert all(len(found) == 1 for found in peaks.values())
        assert {record.detail["memory"] for record in records} == {"solo"}

    def test_running_out_beside_neighbours_is_no_outcome(self, tmp_path):
        chosen = settings({"crowds_out": {"device": str(tmp_path / "device")}})
        run_dir = new_run(tmp_path, chosen)
        work = items([("crowds_out", 0), ("crowds_out", 1)])
        _, events, records = run(chosen, run_dir, work)
        assert short(records) == [(i.line.method, i.replica, i.block, "ok") for i in work]
        assert {record.schedule for record in records} == {"alternated"}
        schedules = [event.schedule for event in of(events, BlockBegan)]
        assert schedules == ["solo", "interleaved", "alternated", "alternated"]


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
        chosen = settings(canary=True).model_copy(update={"sweep": _sweep("e2e", "single_step")})
        work = sweep.plan(chosen)
        _, events, records = run(chosen, new_run(tmp_path, chosen), work)
        assert [key_of(record) for record in records] == [item.key for item in work]
        assert [(r.method, r.replica) for r in records if not r.block] == [E2E, SINGLE_STEP, CANARY]
        assert stats.canary(records).blocks == 2
        assert len(of(events, Started)) == 2 + 6, "e2e's memory is the canary's"


class Slowing:
    """Watches a device that slows down in some windows, counted from 1."""

    highest_sm_clock_mhz = 1000.0

    def __init__(self, *slow: int):
        self.slow, self.windows = slow, 0

    def between(self, began_s, ended_s):
        self.windows += 1
        clock = 700.0 if self.windows in self.slow else 1000.0
        energy = [Reading(began_s, clock, energy_j=0.0), Reading(ended_s, clock, energy_j=3.0)]
        return energy

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
            assert record.dropped_rounds == ("round 0: SM clock 700 of 1000 MHz",)
            assert record.telemetry.sm_clock_mhz.min == 1000
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
        assert records[0].reason == "every round was dropped; round 0: SM clock 700 of 1000 MHz"
        assert len(records[0].dropped_rounds) == 4
        assert records[0].item_slots is not None


class TestFailures:
    def test_a_failing_line_costs_nothing_but_itself(self, tmp_path):
        chosen = settings(timeout_s=4.0)
        failing = [(name, 0) for name in ("kills_itself", "raises", "outgrows_the_host", "hangs", "needs_a_library")]
        work = items([*failing, *PAIR])
        counts, events, records = run(chosen, new_run(tmp_path, chosen), work)
        assert short(records)[:7] == [
            ("kills_itself", 0, 0, "error"),
            ("raises", 0, 0, "error"),
            ("outgrows_the_host", 0, 0, "oom"),
            ("hangs", 0, 0, "timeout"),
            ("needs_a_library", 0, 0, "skipped"),
            ("e2e", 0, 0, "ok"),
            ("single_step", 0, 0, "ok"),
        ]
        assert [record.outcome for record in records[7:]] == ["skipped"] * 5 + ["ok"] * 2
        assert {record.schedule for record in records if record.outcome == "ok"} == {"interleaved"}
        assert (
            records[11].reason == records[4].reason == ("no-such-library is not installed: pip install no-such-library")
        )
        assert records[8].reason == "raises (eager) failed in block 0 (error): LookupError: the item"
        assert counts.outcomes == Counter(error=2, oom=1, timeout=1, ok=4, skipped=6)
        assert [event.record for event in of(events, Finished)] == list(records)
        assert {record.block_records for record in records} == {7}

    @pytest.mark.parametrize("block", [0, 1])
    def test_a_worker_killed_in_a_round_leaves_the_others_theirs(self, tmp_path, block):
        """kill -9 right after its turn, as the kernel's out-of-memory killer does it."""
        chosen = settings(blocks=3, max_blocks=3)
        run_dir = new_run(tmp_path, chosen)
        began: list[BlockBegan] = []
        victims: list[int] = []

        def kill_a_worker(event) -> None:
            if isinstance(event, BlockBegan):
                began.append(event)
            in_the_block = isinstance(event, TookTurn) and began[-1].schedule == "interleaved"
            if in_the_block and event.item.block == block and not victims:
                victims.append(newest_worker())
                os.kill(victims[0], signal.SIGKILL)

        paired.run(chosen, run_dir, items(blocks=3), kill_a_worker)
        records = store.load(run_dir).records
        here = {outcome: method for method, _, number, outcome in short(records) if number == block}
        assert here.keys() == {"error", "ok"}
        assert next(r.reason for r in records if r.outcome == "error").startswith("the worker was killed by SIGKILL")
        after = [(r.method, r.outcome) for r in records if r.block > block]
        assert after.count((here["ok"], "ok")) == after.count((here["error"], "skipped")) == 2 - block
        before = store.load(run_dir).records
        counts, _, records = run(chosen, run_dir, items(blocks=3))
        assert (counts.total, records) == (0, before)


def newest_worker() -> int:
    """The worker that was started last: the fork server's children have no others."""
    workers = [p for p in psutil.Process().children(recursive=True) if _is_worker(p)]
    return max(workers, key=lambda process: process.create_time()).pid


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.ppid() != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _sweep(*methods: str) -> Sweep:
    axes = {"layers": "all"} | {axis: value for axis, value in CASE.axes().items() if value is not None}
    return Sweep.model_validate(axes | {"method": list(methods)})


class TestKilled:
    """The manager killed, or manager and worker: what is on the disk are whole blocks, and resuming adds the others."""

    @pytest.mark.parametrize(
        ("moment", "with_worker"),
        [("TookTurn 0 0", False), ("TookTurn 1 1", True), ("Finished", False)],
        ids=["in block 0", "in block 1, worker too", "between blocks"],
    )
    def test_resuming_repeats_and_loses_no_finished_block(self, tmp_path, moment, with_worker):
        chosen = settings(blocks=3, max_blocks=3).model_copy(update={"sweep": _sweep("e2e", "single_step")})
        run_dir = new_run(tmp_path, chosen)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench._manage_paired", str(run_dir)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        seen = iter(process.stdout.readline, "")
        assert any(line.startswith(moment) for line in seen), "the manager ended before that"
        family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        for pid in [*(family[-1:] if with_worker else ()), process.pid]:
            _kill(pid)
        process.communicate(timeout=PATIENCE_S)
        assert _gone(family)

        before = (run_dir / store.RECORDS_FILE).read_bytes() if (run_dir / store.RECORDS_FILE).exists() else b""
        finished = store.load(run_dir).records
        blocks = Counter(record.block for record in finished)
        assert set(blocks.values()) <= {2}
        counts, events, records = run(chosen, run_dir, sweep.plan(chosen))
        assert counts.recorded == len(finished)
        assert of(events, Planned) == [Planned(6 - len(finished), len(finished))]
        assert not {turn.item.block for turn in of(events, TookTurn)} & set(blocks)
        content = (run_dir / store.RECORDS_FILE).read_bytes()
        assert content.startswith(before)
        assert content.count(b"\n") == 6
        assert short(records) == [(i.line.method, 0, i.block, "ok") for i in sweep.plan(chosen)]


def _gone(pids: list[int]) -> bool:
    """Waits for processes that are no children of ours to end."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([descriptor], [], [], PATIENCE_S)[0]:
                return False
        finally:
            os.close(descriptor)
    return True


class TestTruncated:
    """Power lost while the last block was being written, at every byte of its two records."""

    @pytest.fixture
    def complete(self, tmp_path) -> tuple[Config, Path]:
        chosen = settings(blocks=3, max_blocks=3)
        run_dir = new_run(tmp_path, chosen)
        run(chosen, run_dir, items(blocks=3))
        return chosen, run_dir

    def test_real_blocks_are_measured_again_whole(self, complete, tmp_path):
        """At the places that differ in kind: within either record, between the two, and before the last newline."""
        chosen, whole = complete
        content = (whole / store.RECORDS_FILE).read_bytes()
        lines = content.splitlines(keepends=True)
        start = sum(map(len, lines[:4]))
        places = {
            start: 2, start + 1: 2, start + len(lines[4]) - 1: 2, start + len(lines[4]): 2, len(content) - 2: 2,
            len(content) - 1: 0,
        }  # fmt: skip
        for place, measured in places.items():
            run_dir = tmp_path / f"cut-{place}"
            shutil.copytree(whole, run_dir)
            (run_dir / store.RECORDS_FILE).write_bytes(content[:place])
            counts, events, records = run(chosen, run_dir, items(blocks=3))
            assert counts.total == measured, place
            assert {turn.item.block for turn in of(events, TookTurn)} == ({2} if measured else set())
            assert (run_dir / store.RECORDS_FILE).read_bytes().startswith(content[:start])
            assert short(records) == [(i.line.method, 0, i.block, "ok") for i in items(blocks=3)]
            assert store.load(run_dir).warnings == ()

    def test_every_byte(self, tmp_path, monkeypatch):
        """With a measurement that takes no time, of records as short as they can be, since there are thousands."""
        taken: list[list[int]] = []

        def interleaved(jobs, *_) -> list[Measurement]:
            taken.append([job.item.block for job in jobs])
            return [Measurement(job.item, _short_record(job.item), 0.0) for job in jobs]

        monkeypatch.setattr(paired, "interleaved", interleaved)
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        chosen = settings(memory="same", blocks=3, max_blocks=3)
        run_dir = new_run(tmp_path, chosen)
        results, plenty = run_dir / store.RECORDS_FILE, {"free": lambda: Room(host=2**40)}
        for item in items(blocks=1):  # what the lines need is known from here on, so that all blocks are interleaved
            store.append(run_dir, _short_record(item).model_copy(update={"block_records": 2}))
        run(chosen, run_dir, items(blocks=3), **plenty)
        content = results.read_bytes()
        lines = content.splitlines(keepends=True)
        assert (len(lines), taken) == (6, [[1, 1], [2, 2]])
        finished = sum(map(len, lines[:4]))
        for place in range(finished, len(content) + 1):
            taken.clear()
            results.write_bytes(content[:place])
            left = store.load(run_dir).records
            whole = place >= len(content) - 1  # only the newline is missing, or nothing
            assert [record.block for record in left] == ([0, 0, 1, 1, 2, 2] if whole else [0, 0, 1, 1])
            counts, _, records = run(chosen, run_dir, items(blocks=3), **plenty)
            assert (taken, counts.recorded) == (([], 6) if whole else ([[2, 2]], 4))
            assert results.read_bytes().startswith(content[: place if whole else finished])
            assert len(results.read_bytes().splitlines()) == 6
            assert short(records) == [(i.line.method, 0, i.block, "ok") for i in items(blocks=3)]


def _short_record(item: WorkItem) -> Record:
    return Record(
        case=item.case.axes(), method=item.line.method, engine=item.line.engine, block=item.block, exactness="exact",
        outcome="ok", schedule="interleaved", rounds=(0,), samples_s=(1.0,), peak_memory_bytes=PeakMemory(process=1),
    )  # fmt: skip


class TestModes:
    def test_one_block_without_canary_is_as_it_was(self, tmp_path):
        chosen = config()
        run_dir = new_run(tmp_path, chosen)
        events: list = []
        manager.run(chosen, run_dir, items(blocks=1), events.append)
        records = store.load(run_dir).records
        assert [type(event) for event in events] == [Planned, *[Started, *[PhaseBegan] * 4, Finished] * 2]
        assert {(record.schedule, record.block_records, record.rounds) for record in records} == {("solo", None, ())}
