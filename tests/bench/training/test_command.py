"""`gram-bench train` through the command line, with real workers: killed, resumed, refused, failed."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from bench.cli import app
from bench.configuration.config import restore
from bench.results import store, training
from bench.training import worker
from bench.training.plan import Reached, TrainJob, plan
from tests.bench import _own_inputs as own
from tests.bench import _small_runs

ROOT = Path(__file__).parents[3]
PATIENCE_S = 300
TIMES = {"train_s", "evaluation_s", "peak_memory_bytes"}


@pytest.fixture(scope="module")
def encoder(asset, tmp_path_factory) -> Path:
    """A model folder: one narrow layer with random weights, MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=30_522, **sizes), add_pooling_layer=False).save_pretrained(folder)
    shutil.copy(asset("minilm") / "tokenizer.json", folder)
    return folder


@pytest.fixture
def written(encoder, asset, tmp_path):
    """A function: methods and settings -> a configuration of a short training on MovieLens."""
    asset("movielens"), asset("films")

    def write(method: str, **train) -> Path:
        path = tmp_path / "tiny.toml"
        settings = {"seeds": 0, "max_steps": 12, "evaluate_every": 2, "validation": 0.02, "test": 0.02} | train
        told = "\n".join(f"{key} = {value}" for key, value in settings.items())
        path.write_text(f"""
            [run]
            plugins = "{_small_runs.FAULTY}"
            learning_rate = 5e-3
            [train]
            schedule = "constant"
            {told}
            [train.sweep]
            encoder = "path:{encoder}"
            cf_module = "dkt"
            method = {method}
            batch_size = 32
            history_length = 10
            text_length = 12
        """)
        return path

    return write


def command(*arguments: str | Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def here(*arguments: str | Path):
    """The command line in this process, whose fork server is warm: for what only workers can spoil."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def met(pipe: Path, process: subprocess.Popen | None = None) -> int:
    """The worker's number, once it waits; fails where the run ends instead."""
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    running = [os.pidfd_open(process.pid)] if process else []
    try:
        ready, _, _ = select.select([reading, *running], [], [], PATIENCE_S)
        assert reading in ready, process and process.communicate(timeout=PATIENCE_S)
        return int(os.read(reading, 20))
    finally:
        for descriptor in (reading, *running):
            os.close(descriptor)


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(tmp_path, monkeypatch):
    """Ctrl-C first; the directory then lies elsewhere, as on another machine; then kill -9 of a worker; each time
    `resume` goes on from the checkpoint."""
    reached = tmp_path / "reached"
    os.mkfifo(reached)
    out, inputs = tmp_path / "runs", own.write(tmp_path / "own")
    own.write_log(inputs / "log.csv", users=40)
    monkeypatch.chdir(inputs)
    changes = {
        "run.plugins": _small_runs.FAULTY, "train.sweep.method": "waits_in_training", "train.max_steps": 7,
        "train.evaluate_every": 2, "method.waits_in_training.at": 4, "method.waits_in_training.reached": str(reached),
    }  # fmt: skip
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    process = command("train", "--config", "own.toml", "--device", "cpu", "--out", out, *words)
    met(reached, process)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, told
    run_dir = (out / "latest").resolve()
    assert f"gram-bench resume {out}" in told.splitlines()[-1]
    assert len(training.load(run_dir).points) == 1

    run_dir = Path(shutil.move(run_dir, tmp_path / "brought-back"))

    (item,) = plan(restore(store.read_info(run_dir).config))
    assert item.checkpoint(run_dir).is_file()

    with ThreadPoolExecutor() as beside:
        killed = beside.submit(lambda: os.kill(met(reached), signal.SIGKILL))
        failed = here("resume", run_dir)
        killed.result()
    assert failed.exit_code == 5, failed.output
    assert "killed by SIGKILL" in training.load(run_dir).points[-1].reason
    assert "goes on from their checkpoints" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("gram-bench: nothing was trained to its end in ")
    assert item.checkpoint(run_dir).is_file()

    ended = here("resume", run_dir)
    assert ended.exit_code == 0, ended.output
    assert "AUC" in ended.stdout
    assert (run_dir / "report.html").is_file()
    assert not (run_dir / "checkpoints").exists()
    found = [point.model_dump(mode="json", exclude=TIMES) for point in training.load(run_dir).points]
    assert [point["step"] for point in found] == [2, 4, 6, 7]
    assert _comparable(found) == _comparable(_uninterrupted(run_dir, tmp_path))


def _uninterrupted(run_dir: Path, tmp_path: Path) -> list[dict]:
    """The same training at once, in this process; it waits for nobody."""
    config = restore(store.read_info(run_dir).config)
    config = config.model_copy(update={"method": {}})
    said: list = []
    worker.work(TrainJob(config, plan(config)[0], tmp_path), said.append)
    return [{k: v for k, v in each.point.items() if k not in TIMES} for each in said if isinstance(each, Reached)]


def _comparable(points: list[dict]) -> list[dict]:
    """Without what the wait itself was told."""
    last = points[-1] | {"detail": points[-1]["detail"] | {"method_settings": None}}
    assert len(last["detail"]["parameters_sha256"]) == 64
    return [*points[:-1], last]


@pytest.mark.slow
def test_quality_rises_far_above_chance_on_movielens(written, tmp_path):
    """A smaller smoke: ids alone tell which films are liked, and nothing of films that nobody has met."""
    path = written('"ids_only"', max_steps=60, evaluate_every=30, validation=0.1, test=0.1)
    result = here("train", "--config", path, "--device", "cpu", "--out", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    quality = [point for point in training.load(tmp_path / "runs" / "latest").points if point.test][-1].test
    assert quality["auc"] > 0.58
    assert abs(quality["cold_auc"] - 0.5) < 0.08


def test_a_line_that_fails_is_told_beside_one_that_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(own.write(tmp_path / "own"))
    own.write_log(Path("log.csv"), users=40)
    changes = {"run.plugins": _small_runs.FAULTY, "train.sweep.method": ["raises", "e2e"]}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    result = here("train", "--config", "own.toml", "--device", "cpu", "--out", tmp_path / "runs", *words)
    assert result.exit_code == 0, result.output
    failed, *points = training.load(tmp_path / "runs" / "latest").points
    assert (failed.method, failed.outcome, failed.step) == ("raises", "error", 0)
    assert failed.reason in result.stderr
    assert (points[-1].method, points[-1].outcome) == ("e2e", "ok")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "train.sweep.workload=synthetic"], ["synthetic has nothing to evaluate", "movielens"]),
        (["--set", "train.sweep.workload=shape:mind"], ["shape:mind has nothing to evaluate"]),
        (["--set", "train.metric=aucc"], ['there is no metric "aucc"', 'did you mean "auc"?']),
        (["--set", "train.metric=mrr", "--set", "train.sweep.cf_module=dkt"], ["mrr judges ranking only", "dkt"]),
        (["--set", "train.evaluate_every=often"], ["train.evaluate_every", "0.25E"]),
        (["--set", "train.seeds=[]"], ["train.seeds"]),
        (["--set", "train.patiense=3"], ["train.patiense", 'did you mean "patience"?']),
        (["--set", "train.sweep.batch_size=many"], ["train.sweep.batch_size[0]", "a whole number"]),
        (["--set", "train.validation=0.6", "--set", "train.test=0.5"], ["leave something to train on"]),
    ],
)
def test_what_can_not_be_trained_is_told_in_one_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", "--device", "cpu", "--preset", "smoke", *arguments])
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", ["smoke", "quick", "quality", "full"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_preset_trains_e2e_the_methods_and_both_bounds(preset, device):
    from bench.configuration.config import load

    config = load(ROOT / "bench.toml", preset, (), device)
    lines = {item.line.method for item in plan(config)}
    assert lines >= {"e2e", "single_step", "multi_step", "frozen", "ids_only"}
    assert {item.seed for item in plan(config)} == set(config.train.seeds)
    assert restore(config.model_dump(mode="json")) == config


def test_a_dry_run_says_what_would_be_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", "--device", "cpu", "--preset", "smoke", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "multi_step N=10" in result.stdout
    assert "5 trainings, seed 0" in result.stdout
    assert list(tmp_path.iterdir()) == []
