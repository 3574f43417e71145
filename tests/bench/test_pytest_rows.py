"""`pytest tests/benchmarks`: a run's lines as pytest-benchmark rows, in a pytest of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.pytest_rows import rows
from tests.bench import _gated_runs as runs
from tests.bench._gated_runs import blocks, case

ROOT = Path(__file__).parents[2]
RECORDS = [*case(4.0, seed=1), *blocks("multi_step", 0.1, outcome="oom", reason="CUDA ran out of memory")]


def run_pytest(*arguments) -> subprocess.CompletedProcess:
    """With the one plugin that is needed: the others take longer to import than the rows to make."""
    plugins = ["-p", "no:cacheprovider", "-p", "pytest_benchmark.plugin"]
    command = [sys.executable, "-m", "pytest", *plugins, *map(str, arguments)]
    # the suite's own workers, which share the cores, are none of a benchmark's business
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """The process, and what it wrote with --benchmark-json."""
    folder = tmp_path_factory.mktemp("rows")
    run_dir = runs.write(folder, RECORDS)
    file = folder / "rows.json"
    done = run_pytest("tests/benchmarks/test_measured_lines.py", "--gram-run", run_dir, "--benchmark-json", file, "-rs")
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads(file.read_text())


def test_rows_are_grouped_by_case_with_a_test_for_each_method(replayed):
    _, told = replayed
    assert len({row["group"] for row in told["benchmarks"]}) == 1
    assert "ratio=8" in told["benchmarks"][0]["group"]
    assert [row["extra_info"]["method"] for row in told["benchmarks"]] == ["e2e", "single_step"]
    assert all(row["extra_info"]["method"] in row["name"] for row in told["benchmarks"])


def test_samples_are_replayed_to_the_bit_and_the_canarys_are_not(replayed):
    _, told = replayed
    for row, taken in zip(told["benchmarks"], rows(RECORDS), strict=False):
        assert row["stats"]["data"] == list(taken.samples_s)
        assert row["stats"]["rounds"] == 6 * runs.ROUNDS


def test_extra_info_has_ratio_memory_and_repetition(replayed):
    _, told = replayed
    extra = told["benchmarks"][1]["extra_info"]
    assert extra["speed_up_low"] < extra["speed_up"] < extra["speed_up_high"]
    assert extra["speed_up"] == pytest.approx(4.0, rel=0.02)
    assert extra["peak_memory_bytes"]["allocated"] == runs.PEAK
    assert extra["item_repetition_ratio"] == pytest.approx(8.0, rel=0.01)


def test_the_measured_machine_is_told(replayed):
    _, told = replayed
    assert told["machine_info"]["gram_bench"]["device"] == "NVIDIA H100 80GB HBM3"
    assert told["machine_info"]["gram_bench"]["libraries"]["torch"] == "2.11.0"


def test_a_line_without_a_measurement_is_skipped_with_its_reason(replayed):
    done, _ = replayed
    assert "1 skipped" in done.stdout
    assert "oom: CUDA ran out of memory" in done.stdout


def test_what_is_no_run_is_a_usage_error(tmp_path):
    done = run_pytest("tests/benchmarks/test_measured_lines.py", "--gram-run", tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "not a run directory" in done.stderr


def test_the_suite_does_not_collect_them_by_itself():
    others = [
        f"--ignore=tests/{path}" for path in ("bench", "gram_core", "reports", "examples", "test_documentation.py")
    ]
    done = run_pytest("--collect-only", "-q", *others)
    assert "tests/test_layers.py" in done.stdout
    assert "benchmarks" not in done.stdout


@pytest.mark.slow
def test_its_compare_fail_lets_a_renamed_case_pass(tmp_path):
    """Why it is not the gate: the case is gone, and it ends with 0. `gram-bench gate` ends with 3 there."""
    storage = f"--benchmark-storage=file://{tmp_path}/kept"
    base = ("tests/benchmarks/test_measured_lines.py", storage)
    saved = run_pytest(*base, "--gram-run", runs.write(tmp_path / "then", case(4.0)), "--benchmark-save=then")
    assert saved.returncode == 0, saved.stdout
    compare = ("--benchmark-compare=0001", "--benchmark-compare-fail=mean:5%")
    slower = [record.model_copy(update={"samples_s": (0.2,) * runs.ROUNDS}) for record in case(4.0)]
    failed = run_pytest(*base, *compare, "--gram-run", runs.write(tmp_path / "slower", slower))
    assert failed.returncode != 0, failed.stdout
    renamed = [record.model_copy(update={"case": {**record.case, "batch_size": 33}}) for record in slower]
    passed = run_pytest(*base, *compare, "--gram-run", runs.write(tmp_path / "renamed", renamed))
    assert passed.returncode == 0, passed.stdout + passed.stderr
