"""A whole run through the command line, with real worker processes: measured, reported, resumed, reported again."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.results import store
from tests.bench import _small_runs  # noqa: F401 - it gives workers one thread

TINY = """
[run]
samples = 3
window_s = 0.001
budget_s = 1.0
[sweep]
encoder = "shape:tiny"
batch_size = 4
history_length = 7
text_length = 8
item_repetition_ratio = [1, 2]
method = ["e2e", "single_step"]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of a file of one's own; its directory and what was printed."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.toml").write_text(TINY)
    command = ["run", "--config", str(folder / "tiny.toml"), "--device", "cpu", "--out", str(folder / "runs")]
    return folder / "runs" / "latest", CliRunner().invoke(app, command)


def test_a_run_measures_its_plan_and_ends_with_table_and_report(finished):
    run_dir, result = finished
    assert result.exit_code == 0, result.output
    loaded = store.load(run_dir)
    assert [record.outcome for record in loaded.records] == ["ok"] * 4
    assert loaded.info.planned_records == 4
    assert loaded.info.preset == "full"
    assert "single_step" in result.stdout
    page = Path(result.stdout.partition("Report: ")[2].strip())
    assert page.is_file()
    assert page.parent == run_dir.resolve()


def test_a_log_has_one_line_per_measurement_with_the_time_left(finished):
    _, result = finished
    lines = [line for line in result.stderr.splitlines() if line.startswith("[")]
    assert [line.partition("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert all("ms/step" in line for line in lines)
    assert ["left" in line for line in lines] == [True, True, True, False]


def test_the_recorded_command_asks_for_the_same_plan(finished):
    run_dir, _ = finished
    program, *arguments = store.read_info(run_dir).command
    assert program == "gram-bench"
    result = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "2 cases, 4 measurements" in result.stdout


def test_resuming_a_finished_run_repeats_nothing(finished):
    run_dir, _ = finished
    before = (run_dir / store.RECORDS_FILE).read_bytes()
    result = CliRunner().invoke(app, ["resume", str(run_dir)])
    assert result.exit_code == 0, result.output
    assert (run_dir / store.RECORDS_FILE).read_bytes() == before
    assert "0 measurements to take, 4 are there already" in result.stderr


def test_resuming_takes_what_is_missing(finished, tmp_path):
    run_dir, _ = finished
    lines = (run_dir / store.RECORDS_FILE).read_bytes().splitlines(keepends=True)
    (run_dir / store.RECORDS_FILE).write_bytes(b"".join(lines[:3]))
    result = CliRunner().invoke(app, ["resume", str(run_dir)])
    assert result.exit_code == 0, result.output
    assert (run_dir / store.RECORDS_FILE).read_bytes().startswith(b"".join(lines[:3]))
    assert len(store.load(run_dir).records) == 4


def test_a_report_is_rendered_again(finished):
    run_dir, _ = finished
    (run_dir / "report.html").unlink()
    result = CliRunner().invoke(app, ["report", str(run_dir)])
    assert result.exit_code == 0, result.output
    assert (run_dir / "report.html").is_file()


def test_a_run_without_a_measurement_ends_with_5_and_its_first_reason(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY.replace("budget_s = 1.0", "timeout_s = 0.001"))
    arguments = ["run", "--config", str(tmp_path / "tiny.toml"), "--device", "cpu", "--out", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 5, result.output
    assert "nothing was measured" in result.stderr
    assert "run.timeout_s" in result.stderr
    assert [record.outcome for record in store.load(tmp_path / "runs" / "latest").records] == ["timeout"] * 4
    assert (tmp_path / "runs" / "latest" / "report.html").is_file()
