"""Peak memory of real processes."""

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

from bench.machine import nvml
from bench.machine.cores import compute_threads, usable_cores
from bench.machine.memory import fixed_bytes, peak_memory, resident_peak_bytes

MIB = 2**20


def in_a_process(code: str) -> list[int]:
    """What a fresh interpreter prints, as whole numbers."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_the_resident_peak_stays_when_the_memory_is_given_back():
    before, during, after = in_a_process(
        """
        from bench.machine.memory import resident_peak_bytes
        print(resident_peak_bytes())
        block = b"x" * (64 * 2**20)
        print(resident_peak_bytes())
        del block
        print(resident_peak_bytes())
        """
    )
    assert 60 * MIB < during - before < 80 * MIB
    assert after > during - MIB  # the kernel counts pages in batches


def test_the_resident_peak_is_this_programs_own_and_not_the_one_of_what_it_replaced():
    """getrusage's figure survives an exec: a worker started by a large program would report that program's peak."""
    [peak] = in_a_process(
        """
        import os, sys
        block = b"x" * (256 * 2**20)
        os.execv(sys.executable, [sys.executable, "-c",
            "from bench.machine.memory import resident_peak_bytes; print(resident_peak_bytes())"])
        """
    )
    assert peak < 200 * MIB


def test_a_cpu_has_no_allocator_figures_and_says_null():
    peak = peak_memory(torch.device("cpu"))
    assert (peak.allocated, peak.reserved) == (None, None)
    assert peak.process is not None
    assert peak.process > 50 * MIB
    assert peak.process <= resident_peak_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_driver_the_process_figure_is_null():
    assert nvml.process_bytes("GPU-00000000-0000-0000-0000-000000000000", 1) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_allocator_peaks_since_process_start():
    allocated, reserved = in_a_process(
        """
        import torch
        from bench.machine.memory import peak_memory
        block = torch.empty(64 * 2**20, dtype=torch.uint8, device="cuda")
        del block
        peak = peak_memory(torch.device("cuda", 0))
        print(peak.allocated, peak.reserved)
        """
    )
    assert allocated >= 64 * MIB
    assert reserved >= allocated


class TestUsableCores:
    @pytest.mark.parametrize(("content", "cores"), [("100000 100000", 1), ("150000 100000", 2), ("10000 100000", 1)])
    def test_a_control_groups_quota_is_a_limit(self, tmp_path, content, cores):
        (tmp_path / "cpu.max").write_text(content)
        assert usable_cores(tmp_path / "cpu.max") == min(cores, usable_cores(tmp_path / "absent"))

    @pytest.mark.parametrize("content", ["max 100000", "", "nonsense"])
    def test_no_quota_leaves_the_affinity(self, tmp_path, content):
        (tmp_path / "cpu.max").write_text(content)
        assert usable_cores(tmp_path / "cpu.max") == usable_cores(tmp_path / "absent") >= 1

    @pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("1,2", 1), ("999", None), ("0", None), ("many", None)])
    def test_fewer_threads_can_be_asked_for(self, monkeypatch, asked, threads):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert compute_threads("cpu") == (threads or usable_cores())
        assert compute_threads("cuda") == 1


def test_what_a_training_holds_between_steps_is_counted_once():
    """AdamW keeps two moments of each parameter and a step count; a tied weight is one tensor."""
    encoder, cf = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 4, bias=False)
    optimizers = [torch.optim.AdamW(part.parameters()) for part in (encoder, cf)]
    training = SimpleNamespace(
        encoder=encoder,
        cf_module=cf,
        optimization=SimpleNamespace(encoder_optimizer=optimizers[0], cf_optimizer=optimizers[1]),
    )
    weights = 4 * (8 * 8 + 8 * 4)
    assert fixed_bytes(training) == weights
    cf(encoder(torch.ones(1, 8))).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert fixed_bytes(training) == 3 * weights + 2 * 4
    training.cf_module = encoder
    training.optimization.cf_optimizer = None
    assert fixed_bytes(training) == 3 * 4 * 8 * 8 + 4
