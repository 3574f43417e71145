"""Bad input through the command line: one sentence on stderr, the right exit code, nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.commands import session
from bench.configuration.config import load
from bench.configuration.sweep import plan
from bench.machine import environment
from bench.machine.environment import cuda_obstacle
from bench.results import store
from tests.reports import _runs, _trainings

COMMITTED = Path(__file__).parents[3] / "bench.toml"


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def invoked(*arguments: str):
        return CliRunner().invoke(app, list(arguments))

    return invoked


def assert_one_sentence(result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("gram-bench: ")
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr


def begun_run(out: Path, *overrides: str) -> Path:
    """A run that was interrupted before its first measurement."""
    return session.start(session.resolve(session.Request(device="cpu", preset="smoke", overrides=overrides)), out)


MEASURING = {"resume", "merge", "verify", "profile", "plan", "calibrate"}
"""Commands that an ASCII terminal is not tried with: what they print is a table of `run`, or cases in ASCII."""


def test_every_command_prints_on_an_ascii_terminal(tmp_path):
    """A sign that the terminal lacks must not end a command in an error."""
    measured = [str(_runs.write(tmp_path / name, _runs.paired())) for name in "ab"]
    trained = str(_trainings.write(tmp_path / "c", _trainings.several(seeds=(0,))))
    commands = [
        ["run", "--preset", "smoke", "--device", "cpu", "--dry-run", "--set", 'sweep.encoder=["path:/m\u00f6del"]'],
        ["train", "--preset", "smoke", "--device", "cpu", "--dry-run"],
        ["report", measured[0]],
        ["report", trained],
        ["gate", measured[0], "--reference", measured[1], "--allow-mismatch"],
        ["reference", measured[0], "--out", str(tmp_path / "r\u00e9f.json")],
        ["compare", *measured],
        ["doctor"],
        ["list"],
        ["report", "/no/s\u00fcch"],
    ]
    known = {info.name or info.callback.__name__ for info in app.registered_commands}
    assert {words[0] for words in commands} | MEASURING == known
    code = (
        "import sys\nfrom bench.cli import main\n"
        f"for words in {commands!r}:\n"
        "    sys.argv = ['gram-bench', *words]\n"
        "    try: main()\n"
        "    except SystemExit as end: print(words[0], 'ended with', end.code)\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LANG": "C", "PYTHONPATH": str(COMMITTED.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, env=environment, timeout=300)
    printed, told = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert printed.count("ended with") == len(commands), told
    assert "the harness failed" not in told
    assert "/no/such" in told


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sweep.batch_sise=[2]", ["--set sweep.batch_sise", 'did you mean "batch_size"?']),
        ("sweep.batch_size=many", ["sweep.batch_size[0] must be a whole number", '"many"']),
        ("sweep.item_repetition_ratio=0.5", ["at least 1", "0.5"]),
        ("sweep.item_repetition_ratio=1000", ["ratio", "1000"]),
        ("sweep.method=[]", ["sweep.method", "empty"]),
        ("sweep.encoder=minilmm", ["minilmm", 'did you mean "minilm"?']),
        ("sweep.encoder=shape:tinyy", ["tinyy", "tiny"]),
        ("sweep.workload=movielen", ['did you mean "movielens"?']),
        ("seed", ["expected table.key=value"]),
    ],
)
def test_a_wrong_setting_ends_with_2_and_leaves_nothing(invoke, tmp_path, override, words):
    result = invoke("run", "--device", "cpu", "--preset", "smoke", "--set", override)
    assert_one_sentence(result, 2, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_the_file_is_told_with_its_line(invoke, tmp_path):
    (tmp_path / "mine.toml").write_text("[run]\nseed = 1\n[sweep]\ntext_lenght = 8\n")
    result = invoke("run", "--config", "mine.toml", "--device", "cpu")
    assert_one_sentence(result, 2, "mine.toml, line 4", 'did you mean "text_length"?')


def test_a_method_refuses_values_of_the_right_type_before_anything_is_written(invoke, tmp_path):
    (tmp_path / "mine.toml").write_text("[method.multi_step]\nce_passes = 0\n")
    for command in ("run", "verify"):
        result = invoke(command, "--config", "mine.toml", "--device", "cpu")
        assert_one_sentence(result, 2, "mine.toml, [method.multi_step]", "ce_passes")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_missing_configuration_file_is_named(invoke):
    assert_one_sentence(invoke("run", "--config", "absent.toml"), 2, "absent.toml")


def test_an_unknown_preset_is_refused(invoke):
    assert_one_sentence(invoke("run", "--device", "cpu", "--preset", "quik"), 2, 'did you mean "quick"?')


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_an_output_that_can_not_be_written_is_refused(invoke, tmp_path, place):
    """Permissions would not stop root, a file in the way stops everyone."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    out = blocked if place == "a file" else blocked / "runs"
    result = invoke("run", "--device", "cpu", "--preset", "smoke", "--out", str(out))
    assert_one_sentence(result, 2, str(out), "--out")
    assert blocked.read_text() == ""


def test_traces_that_can_not_be_written_are_refused_before_anything_is_fetched(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "fetch_assets", lambda *_: pytest.fail("fetches what it will not use"))
    (tmp_path / "blocked").write_text("")
    result = invoke("profile", "--device", "cpu", "--preset", "smoke", "--out", str(tmp_path / "blocked"))
    assert_one_sentence(result, 2, "blocked", "--out")
    monkeypatch.setattr(os, "access", lambda *_: False)  # a superuser may write anywhere
    result = invoke("profile", "--device", "cpu", "--preset", "smoke", "--out", str(tmp_path / "locked"))
    assert_one_sentence(result, 2, "locked", "--out")


@pytest.mark.skipif(cuda_obstacle() is None, reason="this machine has a GPU")
@pytest.mark.parametrize("arguments", [["--device", "cuda"], ["--set", "run.device=cuda"]])
def test_a_gpu_that_is_not_there_is_refused(invoke, arguments):
    for command in ("run", "verify"):
        assert_one_sentence(invoke(command, *arguments), 2, "no CUDA device", "--device cpu")


@pytest.mark.parametrize("command", ["run", "train"])
@pytest.mark.parametrize("arguments", [["--device", "cuda"], ["--set", "run.device=cuda"]])
def test_what_a_gpu_would_do_can_be_looked_at_where_there_is_none(invoke, command, arguments):
    result = invoke(command, "--config", str(COMMITTED), "--preset", "full", *arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "device cuda" in result.stdout
    assert "bf16" in result.stdout


@pytest.mark.parametrize("command", ["resume", "report"])
def test_what_is_no_run_directory_is_refused(invoke, tmp_path, command):
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        assert_one_sentence(invoke(command, name), 2, name, "not a run directory")


@pytest.mark.parametrize("command", ["resume", "report"])
def test_damaged_results_are_named_with_their_line_and_left_alone(invoke, tmp_path, command):
    run_dir = begun_run(tmp_path, "sweep.encoder=shape:tiny", "sweep.workload=synthetic")
    damaged = '{"schema_version": 1}\n{"half": \n{}\n'
    (run_dir / store.RECORDS_FILE).write_text(damaged)
    result = invoke(command, str(run_dir))
    assert result.exit_code == 1
    assert "results.jsonl, line 1" in result.stderr
    assert (run_dir / store.RECORDS_FILE).read_text() == damaged


def test_a_run_is_not_resumed_on_another_machine(invoke, tmp_path):
    """One run holds the measurements of one machine."""
    run_dir = begun_run(tmp_path, "sweep.encoder=shape:tiny", "sweep.workload=synthetic")
    info = store.read_info(run_dir)
    elsewhere = info.environment.model_copy(update={"device": "Another Processor"})
    store.write_info(run_dir, info.model_copy(update={"environment": elsewhere}))
    assert_one_sentence(invoke("resume", str(run_dir)), 2, "Another Processor", environment.cpu_model())


def test_usage_errors_end_with_2(invoke):
    for arguments in (["rum"], ["run", "--devise", "cpu"], ["run", "--device", "tpu"], ["resume"]):
        assert invoke(*arguments).exit_code == 2


def test_a_dry_run_counts_and_touches_nothing(invoke, tmp_path):
    result = invoke("run", "--config", str(COMMITTED), "--device", "cpu", "--dry-run")
    assert result.exit_code == 0
    items = plan(load(COMMITTED, "full", (), "cpu"))
    assert f"{len({item.case for item in items})} cases, {len(items)} measurements" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_without_e2e_is_warned_about(invoke):
    result = invoke("run", "--device", "cpu", "--dry-run", "--set", "sweep.method=single_step")
    assert result.exit_code == 0
    assert "no speed-ups" in result.stderr


def test_a_file_of_ones_own_is_measured_as_it_is_and_bench_toml_as_a_processor_can(invoke, tmp_path):
    (tmp_path / "bench.toml").write_text("[sweep]\nbatch_size = 17\n")
    own = invoke("run", "--config", "bench.toml", "--device", "cpu", "--dry-run")
    assert "preset full" in own.stdout
    assert "batch=17" in own.stdout
    assert "preset quick" in invoke("run", "--device", "cpu", "--dry-run").stdout


def test_list_names_everything_that_is_registered(invoke):
    result = invoke("list")
    assert result.exit_code == 0
    for name in ("e2e_unique", "multi_step", "eager", "minilm", "shape", "nrms", "movielens", "synthetic", "smoke"):
        assert name in result.stdout


def test_doctor_ends_with_0_or_1_and_says_what_it_found(invoke):
    result = invoke("doctor")
    assert result.exit_code == ("problem" in result.stdout)
    for check in ("torch", "device", "processor", "memory", "results", "asset cache", "asset minilm"):
        assert check in result.stdout


def python_m_bench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment_variables = {"PYTHONPATH": str(COMMITTED.parent), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env=environment_variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_python_m_bench_is_the_same_program(tmp_path):
    result = python_m_bench("run", "--device", "cpu", "--set", "sweep.engine=eagre", folder=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert 'did you mean "eager"?' in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback_besides_the_sentence(tmp_path):
    result = python_m_bench("run", "--device", "cpu", "--set", "sweep.engine=eagre", "--debug", folder=tmp_path)
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("gram-bench: ")


def test_the_command_line_starts_without_torch(tmp_path):
    code = (
        "import sys; from bench.cli import app; from typer.testing import CliRunner\n"
        "for arguments in (['--help'], ['list'], ['run', '--dry-run', '--device', 'cpu']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0, arguments\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=COMMITTED.parent, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "False"]
