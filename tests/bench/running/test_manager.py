"""The manager over real processes: outcomes, isolation, resuming, and what is left when everything goes wrong."""

import contextlib
import os
import resource
import signal
import subprocess
import threading
from collections import Counter

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import BenchError
from bench.processes.signals import held_back
from bench.results import store
from bench.results.schema import Record
from bench.running.eta import Pace
from bench.running.events import Finished, PhaseBegan, Planned, Started
from bench.running.oom_pruning import observed_out_of_memory
from tests.bench._processes import PATIENCE_S, Rendezvous, command_line, family, gone
from tests.bench._small_runs import FAULTY, ample_s, config, item, new_run, run

OBSERVED_SIZE = {"batch_size": 8, "text_length": 16, "history_length": 10}


def outcomes(records) -> list[tuple[str, str]]:
    return [(record.method, record.outcome) for record in records]


class TestOutcomes:
    def test_one_failing_worker_costs_nothing_but_its_own_measurement(self, tmp_path):
        settings = config()
        methods = ["kills_itself", "raises", "exits", "outgrows_the_host", "needs_a_library", "single_step"]
        counts, _, records = run(settings, new_run(tmp_path, settings), [item(method) for method in methods])
        assert outcomes(records) == [
            ("kills_itself", "error"),
            ("raises", "error"),
            ("exits", "error"),
            ("outgrows_the_host", "oom"),
            ("needs_a_library", "skipped"),
            ("single_step", "ok"),
        ]
        assert counts.outcomes == Counter(error=3, oom=1, skipped=1, ok=1)
        killed, _, exited, _, missing, _ = records
        assert missing.reason == "no-such-library is not installed: pip install no-such-library"
        assert missing.detail.trace is None
        assert killed.reason == (
            "the worker was killed by SIGKILL in the warm-up, often the kernel's out-of-memory killer"
        )
        assert exited.reason == "the worker ended with exit code 3 in the warm-up, before it reported"
        assert "the licence has expired" in exited.detail.output

    def test_a_hanging_worker_is_ended_in_time(self, tmp_path):
        """Even one whose every thread is stuck behind the interpreter's lock."""
        pipe = tmp_path / "reached"
        os.mkfifo(pipe)
        settings = config({"hangs_in_c": {"reached": str(pipe)}}, timeout_s=round(ample_s(tmp_path / "ample"), 1))
        drain = threading.Thread(target=pipe.read_text)
        drain.start()
        _, events, records = run(settings, new_run(tmp_path, settings), [item("hangs_in_c"), item("e2e")])
        drain.join()
        assert outcomes(records) == [("hangs_in_c", "timeout"), ("e2e", "ok")], records[-1].reason
        timeout_s = settings.run.timeout_s
        assert records[0].reason == f"took longer than {timeout_s:g} s (run.timeout_s); it was in the warm-up"
        assert records[0].exactness == "exact"
        assert timeout_s <= next(event.took_s for event in events if isinstance(event, Finished))

    def test_events_tell_the_run_as_it_goes(self, tmp_path):
        settings = config()
        items = [item("e2e"), item("single_step")]
        _, events, records = run(settings, new_run(tmp_path, settings), items)
        assert [type(event) for event in events] == [Planned, *[Started, *[PhaseBegan] * 4, Finished] * 2]
        assert events[0] == Planned(total=2, recorded=0)
        started = [event for event in events if isinstance(event, Started)]
        finished = [event for event in events if isinstance(event, Finished)]
        assert [event.record for event in finished] == list(records)
        assert [(event.number, event.total) for event in finished] == [(1, 2), (2, 2)]
        assert started[0].eta_s is None
        assert finished[0].eta_s == started[1].eta_s == finished[0].took_s > 0
        assert finished[1].eta_s == 0


class TestResuming:
    def test_the_same_call_measures_only_what_has_no_record(self, tmp_path):
        settings = config()
        run_dir = new_run(tmp_path, settings)
        _, _, before = run(settings, run_dir, [item("raises"), item("e2e")])
        counts, events, after = run(settings, run_dir, [item("raises"), item("e2e"), item("single_step")])
        assert events[0] == Planned(total=1, recorded=2)
        assert (counts.recorded, counts.total) == (2, 1)
        assert after[:2] == before
        assert outcomes(after) == [("raises", "error"), ("e2e", "ok"), ("single_step", "ok")]

    def test_nothing_left_to_do_starts_no_worker(self, tmp_path):
        settings = config()
        run_dir = new_run(tmp_path, settings)
        run(settings, run_dir, [item("raises")])
        _, events, _ = run(settings, run_dir, [item("raises")])
        assert events == [Planned(total=0, recorded=1)]

    def test_a_half_written_last_line_is_measured_again(self, tmp_path):
        settings = config()
        run_dir = new_run(tmp_path, settings)
        run(settings, run_dir, [item("raises"), item("refuses")])
        results = run_dir / store.RECORDS_FILE
        results.write_bytes(results.read_bytes()[:-40])
        _, _, records = run(settings, run_dir, [item("raises"), item("refuses")])
        assert outcomes(records) == [("raises", "error"), ("refuses", "error")]


class TestSkipping:
    def test_larger_cases_are_skipped_after_an_observed_out_of_memory(self, tmp_path):
        settings = config()
        items = [item("outgrows_the_gpu", batch_size=size) for size in (2, 4, 8)] + [item("e2e", batch_size=8)]
        counts, events, records = run(settings, new_run(tmp_path, settings), items)
        assert [record.outcome for record in records] == ["ok", "oom", "skipped", "ok"]
        assert counts.outcomes["skipped"] == 1
        assert records[2].reason.startswith("outgrows_the_gpu (eager) ran out of memory on a case no larger: ")
        assert "batch=4" in records[2].reason
        assert records[2].exactness == "exact"
        skipped = [event for event in events if isinstance(event, Finished)][2]
        assert skipped.took_s == 0
        assert sum(isinstance(event, Started) for event in events) == 3

    def test_an_observation_of_an_earlier_call_counts(self, tmp_path):
        settings = config()
        run_dir = new_run(tmp_path, settings)
        run(settings, run_dir, [item("outgrows_the_gpu", batch_size=4)])
        _, _, records = run(settings, run_dir, [item("outgrows_the_gpu", batch_size=4, block=1)])
        assert records[1].reason == "outgrows_the_gpu (eager) ran out of memory on this case in block 0"

    @pytest.fixture
    def observed(self) -> Record:
        work = item("multi_step", accumulation_steps=4, **OBSERVED_SIZE)
        return Record(
            case=work.case.axes(), method="multi_step", engine="eager", accumulation_steps=4, block=0,
            exactness="stale", outcome="oom",
        )  # fmt: skip

    @pytest.mark.parametrize(
        "axes", [{}, {"batch_size": 16}, {"text_length": 32}, {"history_length": 20}, {"item_repetition_ratio": 1.0}]
    )
    def test_hopeless(self, observed, axes):
        work = item("multi_step", accumulation_steps=4, **{**OBSERVED_SIZE, **axes})
        assert observed_out_of_memory(work, [observed]) is observed

    @pytest.mark.parametrize(
        "axes",
        [
            {"batch_size": 4},
            {"batch_size": 16, "text_length": 8},
            {"batch_size": 16, "history_length": 9},
            {"batch_size": 16, "item_repetition_ratio": 4.0},
            {"item_repetition_ratio": None},
            {"precision": "bf16"},
            {"encoder": "minilm"},
            {"layers": 1},
            {"workload": "movielens"},
        ],
    )
    def test_worth_a_try(self, observed, axes):
        work = item("multi_step", accumulation_steps=4, **{**OBSERVED_SIZE, **axes})
        assert observed_out_of_memory(work, [observed]) is None

    def test_other_lines_and_mere_skips_prove_nothing(self, observed):
        work = item("multi_step", accumulation_steps=4, **OBSERVED_SIZE)
        assert observed_out_of_memory(item("single_step", **OBSERVED_SIZE), [observed]) is None
        assert observed_out_of_memory(item("multi_step", accumulation_steps=8, **OBSERVED_SIZE), [observed]) is None
        assert observed_out_of_memory(work, [observed.model_copy(update={"outcome": "skipped"})]) is None
        assert observed_out_of_memory(work, [observed.model_copy(update={"outcome": "error"})]) is None


class TestPace:
    def test_an_item_takes_what_the_ones_most_like_it_took(self):
        pace = Pace()
        assert pace.remaining_s([item("e2e")]) is None
        pace.took(item("e2e"), 10)
        pace.took(item("e2e", encoder="minilm"), 30)
        pace.took(item("single_step"), 4)
        assert pace.remaining_s([item("e2e", batch_size=64)]) == 10
        assert pace.remaining_s([item("e2e", encoder="mpnet")]) == 20
        assert pace.remaining_s([item("multi_step", accumulation_steps=4)]) == 10
        assert pace.remaining_s([item("e2e"), item("single_step")]) == 14
        assert pace.remaining_s([]) == 0


@pytest.fixture
def rendezvous(tmp_path) -> Rendezvous:
    return Rendezvous(tmp_path)


class TestInterrupts:
    def test_the_command_line_is_interrupted_and_resumed(self, tmp_path, rendezvous):
        """What a user does: Ctrl-C on `run`, then the command that its last sentence names.

        A terminal sends SIGINT to the whole group: workers and fork server hear it too, and must say nothing.
        """
        axes = {
            "method": '["e2e","rendezvous","single_step"]',
            "encoder": '["shape:tiny"]',
            "workload": '["synthetic"]',
            "layers": '["all"]',
            "batch_size": "[2]",
            "history_length": "[7]",
            "text_length": "[8]",
            "item_repetition_ratio": "[2]",
        }
        changes = {
            "run.plugins": f'["{FAULTY}"]',
            **{f"sweep.{axis}": value for axis, value in axes.items()},
            **{f"method.rendezvous.{key}": f'"{value}"' for key, value in rendezvous.settings["rendezvous"].items()},
        }
        options = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
        out = ["--preset", "smoke", "--device", "cpu", "--out", str(tmp_path / "runs")]
        process = command_line("run", *out, *options)
        worker = rendezvous.worker_pid()
        descendants = family(process.pid)
        assert worker in descendants
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert gone(descendants)
        run_dir = (tmp_path / "runs" / "latest").resolve()
        assert f"gram-bench resume {tmp_path / 'runs'}" in told.splitlines()[-1]
        assert "Traceback" not in told
        before = store.load(run_dir).records
        assert outcomes(before) == [("e2e", "ok")]

        meeting = threading.Thread(target=lambda: rendezvous.worker_pid() and rendezvous.let_go(), daemon=True)
        meeting.start()
        resumed = CliRunner().invoke(app, ["resume", str(run_dir)])
        assert resumed.exit_code == 0, resumed.output
        meeting.join()
        after = store.load(run_dir).records
        assert outcomes(after) == [("e2e", "ok"), ("rendezvous", "ok"), ("single_step", "ok")]
        assert after[0] == before[0]
        assert (run_dir / "report.html").is_file()

    def test_an_interrupt_waits_for_the_line_that_is_being_written(self):
        written = []

        def write() -> None:
            with held_back():
                signal.raise_signal(signal.SIGINT)
                written.append("whole")
            written.append("not reached")

        with pytest.raises(KeyboardInterrupt):
            write()
        assert written == ["whole"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def limited(size: int):
    """No file that this process writes may become larger, in bytes: a disk that is full beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFullDisk:
    def test_nothing_measured_before_is_lost_and_the_sentence_says_what_to_do(self, tmp_path):
        settings = config()
        run_dir = new_run(tmp_path, settings)
        run(settings, run_dir, [item("e2e")])
        results = run_dir / store.RECORDS_FILE
        before = results.read_bytes()
        with limited(len(before) + 100), pytest.raises(BenchError) as told:
            run(settings, run_dir, [item("e2e"), item("single_step")])
        assert len(str(told.value).splitlines()) == 1
        assert str(results) in str(told.value)
        assert f"gram-bench resume {run_dir}" in str(told.value)
        assert results.read_bytes() == before

        _, _, records = run(settings, run_dir, [item("e2e"), item("single_step")])
        assert outcomes(records) == [("e2e", "ok"), ("single_step", "ok")]

    def test_a_full_file_system_is_no_different(self, tmp_path):
        """A real one, where this user may mount it; the same with a limited file size is tested everywhere."""
        small = tmp_path / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True).returncode:
            pytest.skip("may not mount a file system here")
        try:
            settings = config()
            run_dir = new_run(small, settings)
            _, _, before = run(settings, run_dir, [item("e2e")])
            filler = small / "filler"
            assert subprocess.run(["dd", "if=/dev/zero", f"of={filler}"], capture_output=True).returncode
            many = [item("raises", block=number) for number in range(20)]  # the last page takes a record or two
            with pytest.raises(BenchError, match="gram-bench resume"):
                run(settings, run_dir, many)
            kept = store.load(run_dir)
            assert kept.records[: len(before)] == before
            assert kept.warnings == ()
            filler.unlink()
            _, _, after = run(settings, run_dir, [item("raises", block=20)])
            assert after == (*kept.records, after[-1])
            assert after[-1].key == item("raises", block=20).key
        finally:
            subprocess.run(["umount", small], check=True)
