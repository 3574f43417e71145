"""Paired blocks interrupted, killed or cut short: whole blocks are on the disk, and resuming adds the others."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

from bench.configuration import sweep
from bench.configuration.config import Config
from bench.configuration.sweep import WorkItem
from bench.machine.memory import Room
from bench.results import store
from bench.results.schema import PeakMemory, Record
from bench.running import manager, paired
from bench.running.block import Measurement
from bench.running.events import Finished, Planned, TookTurn
from tests.bench._paired import items, of, settings, short, sweep_of
from tests.bench._processes import PATIENCE_S, ROOT, gone, is_worker
from tests.bench._small_runs import new_run, run


def check_resumed(chosen: Config, run_dir: Path) -> None:
    """What is on the disk are whole blocks; the others are added, and nothing is measured twice."""
    before = (run_dir / store.RECORDS_FILE).read_bytes() if (run_dir / store.RECORDS_FILE).exists() else b""
    finished = store.load(run_dir).records
    blocks = Counter(record.block for record in finished)
    assert set(blocks.values()) <= {2}
    counts, events, records = run(chosen, run_dir, sweep.plan(chosen))
    assert counts.recorded == len(finished)
    assert of(events, Planned) == [Planned(4 - len(finished), len(finished))]
    assert not {turn.item.block for turn in of(events, TookTurn)} & set(blocks)
    content = (run_dir / store.RECORDS_FILE).read_bytes()
    assert content.startswith(before)
    assert content.count(b"\n") == 4
    assert short(records) == [(i.line.method, 0, i.block, "ok") for i in sweep.plan(chosen)]


@pytest.fixture
def chosen() -> Config:
    """Two lines in two blocks."""
    return settings().model_copy(update={"sweep": sweep_of("e2e", "single_step")})


@pytest.mark.parametrize(
    ("moment", "left"),
    [("TookTurn 0 0", 0), ("Finished 0", 2), ("TookTurn 1 1", 2)],
    ids=["in block 0", "between blocks", "in block 1"],
)
def test_a_run_that_is_interrupted_is_resumed(tmp_path, chosen, moment, left):
    """Ctrl-C: workers end, and a block is whole on the disk or not at all."""
    run_dir = new_run(tmp_path, chosen)

    def interrupt(event) -> None:
        if (isinstance(event, TookTurn) and moment == f"TookTurn {event.item.block} {event.round}") or (
            isinstance(event, Finished) and moment == f"Finished {event.record.block}"
        ):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        manager.run(chosen, run_dir, sweep.plan(chosen), interrupt)
    assert not [process for process in psutil.Process().children(recursive=True) if is_worker(process)]
    assert len(store.load(run_dir).records) == left
    check_resumed(chosen, run_dir)


def test_a_killed_manager_and_worker_leave_whole_blocks(tmp_path, chosen):
    """Of what they were measuring nothing is on the disk, and no process is left."""
    run_dir = new_run(tmp_path, chosen)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench._manage_paired", str(run_dir)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    seen = iter(process.stdout.readline, "")
    assert any(line.startswith("TookTurn 1 1") for line in seen), "the manager ended before that"
    family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    for pid in (family[-1], process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    assert gone(family)
    assert short(store.load(run_dir).records) == [(method, 0, 0, "ok") for method in ("e2e", "single_step")]
    check_resumed(chosen, run_dir)


class TestTruncated:
    """Power lost while the last block was being written: at some byte of its two records."""

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

    def test_every_kind_of_byte(self, tmp_path, monkeypatch):
        """Around the ends of records, and every 13th between them; with a measurement that takes no time."""
        taken: list[list[int]] = []

        def interleaved(jobs, *_, **__) -> list[Measurement]:
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
        ends = (finished, finished + len(lines[4]), len(content))
        around = {end + near for end in ends for near in range(-3, 4) if finished <= end + near <= len(content)}
        for place in sorted(around.union(range(finished, len(content), 13))):
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
