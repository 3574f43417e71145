"""Paired blocks interrupted, killed or cut short: whole blocks are on the disk, and resuming adds the others."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.configuration import sweep
from bench.configuration.config import Config
from bench.configuration.sweep import WorkItem
from bench.machine.memory import Room
from bench.results import store
from bench.results.schema import PeakMemory, Record
from bench.running import paired
from bench.running.block import Measurement
from bench.running.events import Planned, TookTurn
from tests.bench._paired import (
    PLUGINS,
    items,
    of,
    settings,
    short,
    sweep_of,
)
from tests.bench._processes import PATIENCE_S, ROOT, Rendezvous, command_line, family, gone
from tests.bench._small_runs import CASE, new_run, run

QUICK = {
    "blocks": 2, "max_blocks": 2, "rounds": 2, "min_samples": 1, "memory": "same", "samples": 3, "window_s": 0.001,
    "max_warmup_steps": 3, "budget_s": 5.0, "timeout_s": 300.0, "canary": False, "plugins": PLUGINS,
}  # fmt: skip


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_paired_run_is_interrupted_and_resumed(tmp_path):
    """Ctrl-C in the second block, a line's warm-up: the first one stays whole, and of the second nothing."""
    meeting = Rendezvous(tmp_path)
    case = {"layers": "all"} | {axis: value for axis, value in CASE.axes().items() if value is not None}
    changes = {
        **{f"run.{key}": value for key, value in QUICK.items()},
        **{f"sweep.{axis}": value for axis, value in case.items()},
        "sweep.method": ["e2e", "rendezvous"],
        **{f"method.rendezvous.{key}": value for key, value in meeting.settings["rendezvous"].items()},
    }
    options = [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    out = ["--config", "/dev/null", "--device", "cpu", "--out", str(tmp_path / "runs")]
    process = command_line("run", *out, *options)
    meeting.worker_pid()
    meeting.let_go()
    worker = meeting.worker_pid()
    descendants = family(process.pid)
    assert worker in descendants
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, told
    assert gone(descendants)
    assert "Traceback" not in told
    assert f"gram-bench resume {tmp_path / 'runs'}" in told.splitlines()[-1]
    run_dir = (tmp_path / "runs" / "latest").resolve()
    before = (run_dir / store.RECORDS_FILE).read_bytes()
    assert short(store.load(run_dir).records) == [("e2e", 0, 0, "ok"), ("rendezvous", 0, 0, "ok")]

    going_on = threading.Thread(target=lambda: meeting.worker_pid() and meeting.let_go(), daemon=True)
    going_on.start()
    resumed = CliRunner().invoke(app, ["resume", str(run_dir)])
    assert resumed.exit_code == 0, resumed.output
    going_on.join()
    assert (run_dir / store.RECORDS_FILE).read_bytes().startswith(before)
    assert short(store.load(run_dir).records) == [
        (method, 0, block, "ok") for block in range(2) for method in ("e2e", "rendezvous")
    ]


class TestKilled:
    """The manager killed, or manager and worker: what is on the disk are whole blocks, and resuming adds the others."""

    @pytest.mark.parametrize(
        ("moment", "with_worker"),
        [("TookTurn 0 0", False), ("TookTurn 1 1", True), ("Finished", False)],
        ids=["in block 0", "in block 1, worker too", "between blocks"],
    )
    def test_resuming_repeats_and_loses_no_finished_block(self, tmp_path, moment, with_worker):
        chosen = settings(blocks=3, max_blocks=3).model_copy(update={"sweep": sweep_of("e2e", "single_step")})
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
        assert gone(family)

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
