"""One worker, in a real process of its own: what it measures, counts, claims, and how it fails."""

import math
import subprocess
import sys

import pytest
import torch

from bench.build.assembly import build, set_dropout
from bench.processes import failures
from bench.processes.fork_server import Worker, WorkerEnded
from bench.processes.messages import Entered, Job, Measured
from bench.results.schema import Record
from bench.worker import entry
from tests.bench._processes import ROOT
from tests.bench._small_runs import SLOTS, config, item

TEXT = 8
CPU = torch.device("cpu")


def messages_of(job: Job, timeout_s: float = 300) -> list:
    """Everything a worker says, to its last word."""
    said = []
    with Worker(entry.main, job) as process:
        while not (said and isinstance(said[-1], Measured)):
            message = process.receive(timeout_s)
            assert message is not None, f"silent for {timeout_s} s after {said}: {process.output_tail}"
            said.append(message)
    return said


def measured(settings, work) -> Record:
    return Record.model_validate(messages_of(Job(settings, work))[-1].record)


@pytest.fixture(scope="module")
def e2e() -> Record:
    return measured(config(), item("e2e"))


@pytest.fixture(scope="module")
def multi_step() -> Record:
    return measured(config({"multi_step": {"ce_passes": 2}}), item("multi_step", accumulation_steps=4))


class TestMeasurement:
    def test_the_record_is_its_work_items(self, e2e, multi_step):
        assert e2e.key == item("e2e").key
        assert multi_step.key == item("multi_step", accumulation_steps=4).key

    def test_windows_are_as_many_as_asked_and_as_long(self, e2e):
        assert e2e.outcome == "ok"
        assert e2e.reason is None
        assert len(e2e.samples_s) == 3
        assert all(0 < seconds < 60 for seconds in e2e.samples_s)
        assert e2e.device_samples_s == ()
        assert 2 <= e2e.warmup_steps <= 3
        assert 0 < e2e.setup_s < 60

    def test_short_steps_share_a_window(self):
        record = measured(config(window_s=0.2), item("e2e"))
        assert record.steps_per_sample > 1
        assert all(seconds * record.steps_per_sample > 0.05 for seconds in record.samples_s)

    def test_counts_are_those_of_the_batches(self, e2e):
        built = build(config(), item("e2e"), CPU)
        batches = [built.workload.batches(step) for step in range(8)]
        unique = torch.tensor([float(len(batch.items[batch.mask].unique())) for batch in batches])
        assert (e2e.users, e2e.item_slots) == (2, SLOTS)
        assert unique.std() == 0, "the synthetic workload realises its ratio in every batch"
        assert e2e.unique_items == unique[0]
        assert e2e.item_repetition_ratio == pytest.approx(SLOTS / unique[0].item())
        assert (e2e.interval_unique_items, e2e.interval_repetition_ratio) == (None, None)
        assert SLOTS <= e2e.real_tokens <= SLOTS * TEXT

    def test_e2e_encodes_every_slot(self, e2e):
        assert e2e.encoded_tokens == e2e.real_tokens
        assert e2e.padded_tokens == SLOTS * TEXT

    @pytest.mark.parametrize("method", ["e2e_unique", "single_step"])
    def test_deduplication_encodes_unique_items(self, method):
        record = measured(config(), item(method))
        assert record.padded_tokens == record.unique_items * TEXT
        assert record.encoded_tokens < record.real_tokens

    def test_multi_step_is_timed_in_whole_intervals(self, multi_step):
        assert multi_step.outcome == "ok"
        assert multi_step.steps_per_sample % 4 == 0
        assert multi_step.warmup_steps == 3, "of an interval that is longer than max_warmup_steps, so many"
        assert multi_step.detail.method_settings["accumulation_steps"] == 4

    def test_multi_step_counts_its_interval(self, multi_step):
        """Each item touched is encoded once when it is new and once in each of the two CE passes."""
        assert multi_step.unique_items < multi_step.interval_unique_items < 4 * SLOTS
        assert multi_step.interval_repetition_ratio == pytest.approx(4 * SLOTS / multi_step.interval_unique_items)
        assert multi_step.padded_tokens == pytest.approx(3 * multi_step.interval_unique_items * TEXT / 4)

    def test_throughput_belongs_to_the_median(self, e2e):
        median_s = sorted(e2e.samples_s)[1]
        assert e2e.throughput_per_s.users * median_s == pytest.approx(e2e.users)
        assert e2e.throughput_per_s.item_slots * median_s == pytest.approx(e2e.item_slots)
        assert e2e.throughput_per_s.real_tokens * median_s == pytest.approx(e2e.real_tokens)

    def test_memory_is_the_processes_and_larger_than_where_it_started(self, e2e):
        assert e2e.peak_memory_bytes.allocated is None
        assert e2e.peak_memory_bytes.process > e2e.detail.resident_at_start_bytes > 2**20

    def test_the_loss_is_a_number_and_moves(self, e2e):
        assert math.isfinite(e2e.loss.first)
        assert e2e.loss.first != e2e.loss.last

    def test_every_line_of_a_case_begins_at_the_same_loss(self, e2e, multi_step):
        """Same weights, same first batch: what a comparison rests on."""
        assert multi_step.loss.first == pytest.approx(e2e.loss.first, rel=1e-5)

    def test_the_facts_of_encoder_and_workload_are_kept(self, e2e):
        assert (e2e.detail.weights, e2e.detail.log) == ("random", "synthetic")
        assert "tiny" in e2e.detail.encoder or "for tests" in e2e.detail.encoder
        assert e2e.detail.threads >= 1

    def test_phases_are_told_in_order(self):
        said = messages_of(Job(config(), item("single_step")))
        assert [m.phase for m in said if isinstance(m, Entered)] == ["setup", "warm-up", "windows", "facts"]
        assert {m.exactness for m in said if isinstance(m, Entered)} == {"exact"}


class TestPrecision:
    @pytest.mark.parametrize("precision", ["float64", "bf16"])
    def test_it_trains(self, precision):
        assert measured(config(), item("single_step", precision=precision)).outcome == "ok"

    def test_master_weights_and_autocast_follow_the_name(self):
        double = build(config(), item("e2e", precision="float64"), CPU)
        assert {p.dtype for p in double.training.encoder.parameters()} == {torch.float64}
        assert {p.dtype for p in double.training.cf_module.parameters()} == {torch.float64}
        assert double.training.amp_dtype is None
        mixed = build(config(), item("e2e", precision="bf16"), CPU)
        assert {p.dtype for p in mixed.training.encoder.parameters()} == {torch.float32}
        assert mixed.training.amp_dtype == torch.bfloat16

    def test_tf32_is_refused_where_there_is_none(self):
        with pytest.raises(ValueError, match="tf32 is a CUDA device's"):
            build(config(), item("e2e", precision="tf32"), CPU)


class TestDropout:
    @pytest.mark.parametrize(
        ("method", "claim"), [("e2e", "exact"), ("single_step", "other-model"), ("multi_step", "stale")]
    )
    def test_a_shared_mask_costs_deduplicating_methods_their_exactness(self, method, claim):
        assert build(config(dropout="shared"), item(method), CPU).exactness == claim

    @pytest.mark.parametrize("method", ["e2e", "e2e_unique", "single_step"])
    def test_without_dropout_they_are_exact(self, method):
        assert build(config(), item(method), CPU).exactness == "exact"

    def test_off_is_off_everywhere_and_shared_is_the_models_own(self):
        def losses(dropout: str) -> list[float]:
            built = build(config(dropout=dropout), item("e2e"), CPU)
            batch = built.workload.batches(0)
            return [built.method.accumulate(batch).item() for _ in range(2)]

        first, second = losses("off")
        assert first == second
        first, second = losses("shared")
        assert first != second

    def test_recurrent_layers_have_theirs_silenced_too(self):
        layer = torch.nn.LSTM(4, 4, num_layers=2, dropout=0.5)
        set_dropout(layer, "off")
        assert layer.dropout == 0
        assert layer.training


class TestFailures:
    def test_an_exception_is_one_sentence_and_keeps_its_trace(self):
        record = measured(config(), item("raises"))
        assert (record.outcome, record.reason) == ("error", "LookupError: the item")
        assert "raises.py" in record.detail.trace
        assert record.samples_s == ()

    def test_a_failing_setup_is_told_like_any_other(self):
        record = measured(config(), item("refuses"))
        assert (record.outcome, record.reason) == ("error", "ValueError: this encoder is not for me")

    def test_an_unknown_method_names_the_nearest(self):
        record = measured(config(), item("single_stop"))
        assert record.outcome == "error"
        assert "'single_step'" in record.reason

    def test_the_hosts_memory_running_out_is_an_outcome(self):
        """Not simulated: the allocator really refuses a pebibyte."""
        record = measured(config(), item("outgrows_the_host"))
        assert record.outcome == "oom", record.reason
        assert record.reason == "out of memory in the warm-up: asked for 1048576.00 GiB"

    def test_a_memory_budget_is_halved_once_after_running_out(self):
        """A budget is a guess; one smaller guess costs less than a case without a number, and is recorded."""
        name = "needs_a_smaller_budget"
        record = measured(config({name: {"memory_budget": 0.8}}), item(name))
        assert record.outcome == "ok"
        assert record.detail.memory_budget_after_oom == 0.4
        record = measured(config({name: {"memory_budget": 4.0}}), item(name))
        assert record.outcome == "oom", record.reason
        assert record.detail.memory_budget_after_oom == 2.0

    def test_an_out_of_memory_case_still_says_how_large_it_was(self):
        record = measured(config(), item("outgrows_the_gpu", batch_size=4))
        assert record.outcome == "oom", record.reason
        assert record.reason == "out of memory in the warm-up: asked for 2.50 GiB with 1.20 GiB of 79.11 GiB free"
        assert record.item_slots == 2 * SLOTS
        assert record.unique_items < record.item_slots
        assert record.peak_memory_bytes.process > 0

    def test_a_diverging_training_is_no_measurement(self):
        record = measured(config(), item("diverges"))
        assert record.outcome == "error"
        assert "the loss is nan at step 3" in record.reason

    def test_what_libraries_print_stays_out_of_the_managers_lines(self, capfd):
        with Worker(entry.main, Job(config(), item("exits"))) as process:
            with pytest.raises(WorkerEnded) as ended:
                all(process.receive(60) for _ in range(10))
            assert ended.value.exit_code == 3
            assert "the licence has expired" in process.output_tail
        assert capfd.readouterr() == ("", "")


class TestRecognition:
    @pytest.mark.parametrize(
        "message",
        [
            "CUDA error: out of memory",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 4096 bytes. Error code 12 (Cannot allocate memory)",
        ],
    )
    def test_libraries_name_out_of_memory_in_their_own_words(self, message):
        assert failures.is_out_of_memory(RuntimeError(message))

    def test_other_errors_are_errors(self):
        assert not failures.is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
        assert not failures.is_out_of_memory(ValueError("out of memory"))
        assert failures.of_exception(MemoryError(), "setup").reason == "out of memory in the setup"

    def test_a_killed_worker_is_told_with_its_signal(self):
        assert failures.of_exit_code(-9, "windows").reason == (
            "the worker was killed by SIGKILL in the windows, often the kernel's out-of-memory killer"
        )
        assert failures.of_exit_code(-11, "setup").reason == "the worker was killed by SIGSEGV in the setup"
        assert "exit code 3" in failures.of_exit_code(3, "setup").reason


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnAGpu:
    """Workers forked from a server that has imported everything: CUDA must still be theirs to start."""

    def test_both_clocks_and_all_three_memory_figures_are_there(self):
        record = measured(config(device="cuda"), item("single_step", precision="bf16"))
        assert record.outcome == "ok", record.reason
        assert len(record.device_samples_s) == len(record.samples_s)
        for wall_s, device_s in zip(record.samples_s, record.device_samples_s, strict=True):
            assert 0 < device_s <= wall_s * 1.01
        memory = record.peak_memory_bytes
        assert 0 < memory.allocated <= memory.reserved
        assert memory.process is None or memory.process > memory.reserved

    def test_methods_agree_on_the_first_loss(self):
        losses = [
            measured(config(device="cuda"), item(method, precision="tf32")).loss.first
            for method in ("e2e", "single_step")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)

    def test_running_out_of_memory_is_an_outcome_with_its_size(self):
        record = measured(
            config(device="cuda"), item("e2e", encoder="shape:bert-base", batch_size=2_000, text_length=128)
        )
        assert record.outcome == "oom", record.reason
        assert "asked for" in record.reason
        assert record.peak_memory_bytes.allocated > 2**30


def test_a_traceback_names_files_from_their_package_on():
    """Results are forwarded: where someone's home folder lies is nobody's business."""
    trace = (
        'File "/home/ann/my project/bench/worker/measurement.py", line 3, in run\n'
        'File "/opt/venv/lib/python3.12/site-packages/torch/nn/modules/module.py", line 9, in call\n'
        'File "/usr/lib/python3.12/runpy.py", line 1, in main\nFile "<frozen runpy>", line 2\n'
    )
    assert failures.without_folders(trace).splitlines() == [
        'File "bench/worker/measurement.py", line 3, in run',
        'File "torch/nn/modules/module.py", line 9, in call',
        'File "python3.12/runpy.py", line 1, in main',
        'File "<frozen runpy>", line 2',
    ]


def test_workers_are_of_the_same_copy_of_the_program_wherever_it_is_called(tmp_path):
    """Another one in the working directory is none of its business: it would be measured in place of this one."""
    for package in ("bench", "gram_core"):
        (tmp_path / "here" / package).mkdir(parents=True)
        (tmp_path / "here" / package / "__init__.py").write_text("")
    script = tmp_path / "called.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(1, {str(ROOT)!r})\n"
        "def tell(connection, job, output):\n"
        "    import bench, gram_core\n"
        "    connection.send([bench.__file__, gram_core.__file__])\n"
        "if __name__ == '__main__':\n"
        "    from bench.processes import fork_server\n"
        "    fork_server.PRELOAD = ('bench', 'gram_core')\n"
        "    with fork_server.Worker(tell, None) as process:\n"
        "        print(*process.receive(300), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path / "here", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(ROOT / package / "__init__.py") for package in ("bench", "gram_core")]
