"""A training that is killed, whenever, ends as one that never was: same parameters, same points, bit by bit."""

from __future__ import annotations

import pytest

from bench.configuration.method_settings import method_names, takes_accumulation_steps
from bench.methods import Unavailable, check_available, method_class
from bench.results import files, training
from bench.training import checkpoint, manager, worker
from tests.bench.training import _tiny

STEPS = 8
TIMES = {"train_s", "evaluation_s", "peak_memory_bytes"}


class Killed(BaseException):
    """What a worker can neither catch nor tell of."""


class Fuse:
    """Goes off at the n-th time that it is touched, once."""

    def __init__(self, touches: int) -> None:
        self.left = touches

    def touch(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def train(config, item, folder) -> None:
    """What the manager does with a line that has no outcome, its worker in this process."""
    points = training.trainings(training.load(folder).points).get(item.key, ())
    job = _tiny.job(config, item, folder)
    worker.work(job, manager.Recorder(job, points[-1] if points else None, lambda event: None).hear)


def points(folder) -> list[dict]:
    """Every point without its times; the last one carries the fingerprint of all parameters."""
    return [point.model_dump(exclude=TIMES) for point in training.load(folder).points]


@pytest.fixture
def tiny(monkeypatch):
    _tiny.install(monkeypatch)
    return monkeypatch


def configuration(dropout: str = "off"):
    config = _tiny.settings(max_steps=STEPS, evaluate_every=2, patience=99)
    one_layer = {"cached_layers": {"trained_layers": 1}}  # of an encoder of two
    return config.model_copy(update={"run": config.run.model_copy(update={"dropout": dropout}), "method": one_layer})


def assert_resumes(tmp_path, tiny, config, item, target, kills) -> None:
    """target: patches what a fuse shall watch; kills: how often each training touches it before it is killed."""
    whole = _tiny.run_dir(tmp_path / "whole", config)
    train(config, item, whole)
    expected = points(whole)
    assert expected[-1]["outcome"] == "ok"
    assert len(expected[-1]["detail"]["parameters_sha256"]) == 64
    survived = 0
    for number in kills:
        folder = _tiny.run_dir(tmp_path / f"killed-{number}", config)
        with tiny.context() as patch:
            target(patch, Fuse(number))
            with pytest.raises(Killed):
                train(config, item, folder)
        survived += item.checkpoint(folder).exists()
        train(config, item, folder)
        assert points(folder) == expected, f"killed at {number}"
    assert survived > 0, "guard: some of them do go on from a checkpoint"


def at_a_step(patch, fuse: Fuse) -> None:
    workload = _tiny.workload

    def fused(*arguments):
        made = workload(*arguments)
        batches = made.batches

        def batch(step):
            fuse.touch()
            return batches(step)

        object.__setattr__(made, "batches", batch)
        return made

    patch.setattr(_tiny, "workload", fused)


def between_the_two_writes(patch, fuse: Fuse) -> None:
    """The checkpoint is on the disk and the point is not."""
    append = training.append

    def fused(run_dir, point) -> None:
        fuse.touch()
        append(run_dir, point)

    patch.setattr(training, "append", fused)


def before_the_checkpoint_takes_its_place(patch, fuse: Fuse) -> None:
    """A half-written file lies beside the old one."""
    replace = files.os.replace

    def fused(source, target) -> None:
        fuse.touch()
        replace(source, target)

    patch.setattr(files.os, "replace", fused)


@pytest.mark.parametrize("target", [between_the_two_writes, before_the_checkpoint_takes_its_place])
def test_killed_around_every_write(tmp_path, tiny, target):
    """jsonl and checkpoint must agree after a crash between the two, wherever it falls."""
    evaluations = STEPS // 2
    first = 1 if target is between_the_two_writes else 2  # killed at its first checkpoint, there is none to go on from
    assert_resumes(tmp_path, tiny, configuration(), _tiny.item("single_step"), target, range(first, evaluations + 1))


def test_killed_in_every_interval_with_dropout(tmp_path, tiny):
    """At the first and the last step of an interval, in the midst of one, and in one that is cut short; random states,
    schedules and moments all count."""
    item = _tiny.item("multi_step", 3, cf_module="dkt")
    with tiny.context() as patch:
        _responses(patch)
        assert_resumes(tmp_path, patch, configuration("shared"), item, at_a_step, (1, 4, 6, 8))


def _responses(patch) -> None:
    workload = _tiny.workload
    patch.setattr(_tiny, "workload", lambda task, seed: workload("response", seed))


@pytest.mark.parametrize("method", [name for name in method_names() if name != "multi_step"])
def test_every_method_keeps_what_its_next_steps_depend_on(tmp_path, tiny, method):
    """Kept encodings, rows in the encoder's place, steps counted: whatever is registered, a kill changes nothing."""
    try:
        check_available(method_class(method))
    except Unavailable as missing:
        pytest.skip(str(missing))
    steps = 2 if takes_accumulation_steps(method) else None
    assert_resumes(tmp_path, tiny, configuration(), _tiny.item(method, steps), at_a_step, (6,))


def test_an_interval_chosen_while_training_is_kept(tmp_path, tiny):
    config = configuration()
    told = {"multi_step": {"cf_step_tokens": 1.0, "drift_limit": 10.0}}
    config = config.model_copy(update={"method": told})
    assert_resumes(tmp_path, tiny, config, _tiny.item("multi_step", "auto"), at_a_step, (4, 8))


@pytest.mark.parametrize("every_s", [0.0, 1e6], ids=["lost", "rare"])
def test_without_a_checkpoint_a_training_is_done_again_and_nothing_else(tmp_path, tiny, every_s):
    """A run directory brought back without its large files: what had been told is told again, and stands once."""
    config, item = configuration(), _tiny.item("single_step")
    written = config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_every_s": every_s})})
    whole, killed = (_tiny.run_dir(tmp_path / name, config) for name in ("whole", "killed"))
    train(config, item, whole)
    with tiny.context() as patch:
        at_a_step(patch, Fuse(6))
        with pytest.raises(Killed):
            train(written, item, killed)
    assert len(points(killed)) == 2, "guard: two evaluations had been told"
    assert item.checkpoint(killed).exists() == (every_s == 0)
    item.checkpoint(killed).unlink(missing_ok=True)
    train(written, item, killed)
    assert points(killed) == points(whole)


def test_a_half_written_point_is_told_again(tmp_path, tiny):
    config, item = configuration(), _tiny.item("single_step")
    whole = _tiny.run_dir(tmp_path, config)
    train(config, item, whole)
    expected = points(whole)
    file = whole / training.POINTS_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines)[:-30])
    assert "half-written" in training.load(whole).warnings[0]
    train(config, item, whole)  # its checkpoint is still there
    assert points(whole) == expected


def test_a_damaged_line_is_named(tmp_path):
    whole = _tiny.run_dir(tmp_path, configuration())
    (whole / training.POINTS_FILE).write_text('{"schema_version": 1}\n{}\n')
    with pytest.raises(training.store.DamagedResults, match=r"training.jsonl, line 1"):
        training.load(whole)


def test_what_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "it.safetensors"
    assert checkpoint.load(path) is None
    path.write_bytes(b"\x00" * 20)
    with pytest.raises(training.store.ResultsError, match=r"it\.safetensors: not a checkpoint"):
        checkpoint.load(path)


def test_a_checkpoint_that_can_not_be_written_is_told_and_no_outcome(tmp_path, tiny):
    """A full disk is the run's trouble: the line is trained again, not given up."""
    config, item = configuration(), _tiny.item("single_step")
    folder = _tiny.run_dir(tmp_path, config)
    (folder / "checkpoints").write_text("in the way")
    with pytest.raises(manager.BenchError, match="gram-bench resume"):
        train(config, item, folder)
    assert training.load(folder).points == ()
