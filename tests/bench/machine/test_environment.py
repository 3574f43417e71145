"""The machine's facts, and the diagnosis of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.commands import doctor
from bench.errors import UsageError
from bench.machine import cores, environment
from bench.results.schema import Environment

ROOT = Path(__file__).parents[3]
needs_gpu = pytest.mark.skipif(environment.cuda_obstacle() is not None, reason=str(environment.cuda_obstacle()))


def test_the_processor_is_described_whole():
    facts = environment.describe("cpu")
    assert facts == Environment.model_validate_json(facts.model_dump_json())
    assert facts.device == facts.cpu
    assert facts.device_kind == "cpu"
    assert facts.cpu_cores >= 1
    assert facts.host_memory_bytes > 2**28
    assert facts.libraries["torch"] == torch.__version__
    assert (facts.device_uuid, facts.driver, facts.clocks_mhz, facts.power_limit_w) == (None, None, {}, None)


def test_the_commit_is_the_checkouts_own():
    facts = environment.describe("cpu")
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert facts.git_sha == (result.stdout.strip() if result.returncode == 0 else None)
    assert (facts.git_dirty is None) == (facts.git_sha is None)


def test_torchs_cuda_version_is_read_without_importing_it():
    assert environment.torch_cuda_version() == torch.version.cuda


def test_describing_touches_neither_torch_nor_cuda():
    """A parent that has touched CUDA can't fork workers that use it."""
    code = (
        "import sys; from bench.machine import environment\n"
        "environment.describe(environment.resolve_device('auto')); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_the_processor_can_always_be_asked_for():
    assert environment.resolve_device("cpu") == "cpu"


def test_auto_and_cuda_follow_what_torch_sees():
    usable = torch.cuda.is_available()
    assert environment.resolve_device("auto") == ("cuda" if usable else "cpu")
    if usable:
        assert environment.resolve_device("cuda") == "cuda"
    else:
        with pytest.raises(UsageError, match="no CUDA device can be used"):
            environment.resolve_device("cuda")


def test_hidden_gpus_are_not_used(monkeypatch):
    monkeypatch.setattr(environment, "torch_cuda_version", lambda: "12.8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" in str(environment.cuda_obstacle())


@needs_gpu
def test_the_gpu_is_the_one_that_torch_measures_on():
    facts = environment.describe("cuda")
    code = "import torch, json; p = torch.cuda.get_device_properties(0); print(json.dumps([p.name, str(p.uuid)]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, uuid = json.loads(result.stdout)
    assert facts.device == name
    assert str(facts.device_uuid).endswith(uuid)
    assert facts.device_memory_bytes
    assert facts.driver


def test_a_file_in_the_way_of_results_is_a_problem(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    findings = doctor.examine(blocked / "runs")
    assert not doctor.is_fit(findings)
    [finding] = [finding for finding in findings if finding.check == "results"]
    assert finding.status == "problem"
    assert "--out" in finding.advice


def test_every_bad_finding_says_what_to_do():
    for finding in doctor.examine():
        assert finding.found
        assert (finding.status == "ok") == (finding.advice == "")


def test_an_asset_that_is_missing_is_only_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(tmp_path / "empty"))
    found = [finding for finding in doctor.examine() if finding.check == "asset minilm"]
    assert [finding.status for finding in found] == ["warning"]
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu sse4_2 avx2 fma\n", False),
        ("processor : 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512_vnni\n", False),
        ("processor : 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\nprocessor : 1\nflags\t\t: fpu avx2\n", True),
        ("flags : avx2 amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("Features\t: fp asimd\n", False),
        ("processor : 0\n", None),
    ],
)
def test_instructions_for_bf16_are_read_from_what_the_system_tells(cpuinfo, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cores.multiplies_bf16(tmp_path / "cpuinfo") is expected
    assert cores.multiplies_bf16(tmp_path / "none") is None


@pytest.mark.parametrize("told", [True, False, None])
def test_a_processor_that_takes_a_minute_for_a_bf16_step_is_told(told, monkeypatch):
    monkeypatch.setattr(doctor, "multiplies_bf16", lambda: told)
    monkeypatch.setattr(doctor, "cuda_obstacle", lambda: "there is none")
    found = [finding for finding in doctor.examine() if finding.check == "bf16"]
    assert [finding.status for finding in found] == ([] if told is not False else ["warning"])
    assert all("can take a minute" in finding.found and "float32" in finding.advice for finding in found)


def test_the_libraries_asked_for_are_those_of_the_project():
    assert {"torch", "transformers", "pydantic"} <= set(doctor.requirements())
    assert all(version[0].isdigit() for version in doctor.requirements().values())
