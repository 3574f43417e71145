"""The preset `scaling`: it runs on two processes of a CPU, and leaves out what a host has too few GPUs for."""

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.commands import session
from bench.configuration.sweep import plan
from bench.errors import ConfigError
from bench.machine import environment
from bench.results import store

SHORT = ("run.samples=1", "run.min_samples=1")
SMALL = ("sweep.encoder=[shape:tiny]", "sweep.layers=[all]", "sweep.text_length=[8]", *SHORT)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(environment, "resolve_device", lambda asked: "cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(environment, "gpu_uuids", lambda: ("GPU-a", "GPU-b"))


@pytest.mark.slow
def test_it_runs_on_a_processor(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    changes = [word for change in SMALL for word in ("--set", change)]
    command = ["run", "--preset", "scaling", "--device", "cpu", *changes, "--out", str(tmp_path)]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    records = store.load(tmp_path / "latest").records
    assert {record.outcome for record in records} == {"ok"}
    ways = {(record.case["world_size"], record.case["deduplicate"]) for record in records}
    assert ways == {(1, "local"), (2, "local"), (2, "global"), (2, "auto")}


def test_cases_of_more_processes_than_gpus_are_left_out_and_stay_so(two_gpus):
    asked = session.resolve(session.Request(device="cuda", preset="scaling"))
    assert {item.case.world_size for item in asked.items} == {1, 2}
    assert plan(asked.config) == asked.items, "resume and merge plan from the configuration"
    assert any("4 and 8 processes are left out" in warning for warning in asked.warnings())


@pytest.mark.parametrize(
    ("chosen", "count"), [("0,1", 2), ("1", 1), ("1,7,0", 1), ("GPU-b,GPU-a", 2), ("", 0), ("-1", 0), ("0, 1", 2)]
)
def test_gpus_are_those_that_cuda_shows(two_gpus, monkeypatch, chosen, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert environment.visible_gpus() == count


def test_elsewhere_they_are_an_error(two_gpus):
    for changes in (("sweep.world_size=[1,4]",), ("run.missing_gpus=leave_out", "sweep.world_size=[4,8]")):
        with pytest.raises(ConfigError, match=r"processes need a GPU each, and there are 2"):
            session.resolve(session.Request(device="cuda", preset="full", overrides=changes))
