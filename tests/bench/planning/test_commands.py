"""`gram-bench plan` and `calibrate` on a log of one's own: sentences, files, exit codes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bench.cli import app
from bench.configuration.config import load
from bench.configuration.sweep import plan as planned
from bench.inputs import assets
from bench.machine import environment
from bench.planning import calibration as calibrating
from bench.planning import coefficients
from bench.results import forecast as forecasts
from tests.bench import _own_inputs as inputs
from tests.bench.planning._parts import calibration


def here() -> dict[str, object]:
    facts = environment.describe("cpu")
    return {"device": facts.device, "cores": facts.cpu_cores, "torch": facts.libraries["torch"].partition("+")[0]}


def variables(cache: Path) -> dict[str, str]:
    return {assets.CACHE_VARIABLE: str(cache), "COLUMNS": "200"}


def command(folder: Path, *words: str, cache: Path | None = None) -> Result:
    """The command line in this process, from that folder."""
    with contextlib.chdir(folder):
        return CliRunner().invoke(app, words, env=variables(cache or folder / "cache"))


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Inputs, and coefficients of this machine for them."""
    folder = inputs.write(tmp_path_factory.mktemp("plan") / "own")
    coefficients.keep(calibration(**here()), folder / "cache" / "costs")
    return folder


@pytest.fixture(scope="module")
def made(own):
    done = command(own, "plan", "--config", "own.toml", "--write", "recommended.toml")
    assert done.exit_code == 0, done.output
    return done, forecasts.read(own / "runs" / "plan" / forecasts.PLAN_FILE)


def test_the_sentence_comes_first_and_says_what_the_log_repeats(made) -> None:
    done, forecast = made
    assert done.stdout.startswith(forecast.recommendation)
    assert "single_step" in forecast.recommendation or "e2e_unique" in forecast.recommendation
    assert "meets each of its items" in forecast.recommendation
    assert "another machine" not in done.stdout


def test_counts_are_the_logs(made) -> None:
    """12 users met 8 of 16 items each; a stretch is 8 long, so that an epoch is 12 users."""
    _, forecast = made
    assert forecast.whole_epoch
    assert forecast.users_read == 12
    batches = {each.batch_size: each for each in forecast.counts if each.steps == 1}
    assert set(batches) == {1, 2, 4, 8}
    for size, each in batches.items():
        assert each.item_slots.mean == 8 * size
        assert each.padded_tokens == 8 * 8 * size
        assert 8 <= each.unique_items.mean <= 16
    assert any("batch_size 16: the log has 12 examples" in reason for reason in forecast.left_out)


def test_every_method_is_forecast_with_intervals_that_hold_its_value(made) -> None:
    _, forecast = made
    assert {line.method for line in forecast.lines} == {"e2e", "e2e_unique", "single_step", "multi_step"}
    assert {line.asked_steps for line in forecast.lines if line.method == "multi_step"} >= {"0.5E", "1E", 16}
    for line in forecast.lines:
        for each in (line.step_s, line.epoch_s, line.users_per_s, line.speed_up, line.peak_bytes):
            assert 0 < each.low <= each.value <= each.high
        assert line.epoch_s.value == pytest.approx(12 // line.batch_size * line.step_s.value)
        if line.method == "e2e":
            assert line.speed_up.low == line.speed_up.value == line.speed_up.high == 1
    fitting = {each.label: each.batch_size for each in forecast.largest}
    assert fitting["e2e"] == 12, "the log has no more"


def test_the_page_shows_the_sentence_and_both_figures(own, made) -> None:
    _, forecast = made
    page = (own / "runs" / "plan" / "plan.html").read_text(encoding="utf-8")
    assert forecast.recommendation.partition(". ")[0] in page
    assert page.count("data:image/png;base64") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert {path.name for path in (own / "runs" / "plan" / "figures").iterdir()} == {"speed_up.png", "memory.png"}


def test_the_written_configuration_runs_what_is_recommended(own, made, monkeypatch) -> None:
    _, forecast = made
    monkeypatch.chdir(own)
    config = load(Path("recommended.toml"), "full", (), "cpu")
    items = planned(config)
    assert {item.case.batch_size for item in items} == {forecast.recommended.batch_size}
    assert [item.line.method for item in items] == ["e2e", forecast.recommended.method]
    case = {**forecast.case, "batch_size": forecast.recommended.batch_size}
    assert items[0].case.axes() == case


def test_a_small_limit_is_kept_to(own, tmp_path) -> None:
    done = command(own, "plan", "--config", "own.toml", "--memory-limit", "0.1", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Nothing fits into 0.1 GiB")
    found = forecasts.read(tmp_path / "plan.json")
    assert found.recommended is None
    assert {each.batch_size for each in found.largest} == {None}


def test_batches_of_an_asked_ratio_are_counted_size_by_size(own, tmp_path) -> None:
    changes = (
        "sweep.workload=synthetic",
        "sweep.item_repetition_ratio=4",
        "sweep.batch_size=8",
        "sweep.cf_module=nrms",
    )
    words = [word for change in changes for word in ("--set", change)]
    done = command(own, "plan", "--config", "own.toml", *words, "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = forecasts.read(tmp_path / "plan.json")
    ratios = {each.batch_size: each.item_repetition_ratio for each in found.counts if each.steps == 1}
    assert set(ratios) == {4, 8, 16, 32, 64}
    assert all(ratio == pytest.approx(4, rel=0.02) for ratio in ratios.values())
    assert any("batch_size 1: item_repetition_ratio" in reason for reason in found.left_out)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--memory-limit", "0"), "--memory-limit 0: give GiB, more than 0."),
        (("--case", "7"), "--case 7: none of the 1 cases match"),
        (("--device", "cuda"), "there are no coefficients of cuda devices for eager; run `gram-bench calibrate`"),
        (("--set", "sweep.text_length=64"), "text_length 64 is more than the 32 tokens"),
        (("--set", "sweep.batch_size=13"), "batch_size = 13 is more than the 12 examples of table"),
        (("--set", "sweep.engine=eagre"), 'there is no engine "eagre"'),
        (("--set", "sweep.world_size=2"), "plan forecasts one process"),
        (("--set", "sweep.adapter=lora"), "this case has adapter=lora: measure it by gram-bench run"),
        (("--out", "items.csv/plan"), "items.csv/plan: cannot write"),
    ],
)
def test_what_cannot_be_planned_ends_with_one_sentence_and_code_2(own, words, sentence) -> None:
    done = command(own, "plan", "--config", "own.toml", *words)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("gram-bench: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_another_machines_coefficients_are_told_as_such(own, tmp_path) -> None:
    folder = tmp_path / "cache" / "costs"
    coefficients.keep(calibration(device="a processor elsewhere", cores=3), folder)
    words = ("plan", "--config", "own.toml", "--out", str(tmp_path / "plan"))
    done = command(own, *words, cache=tmp_path / "cache")
    assert done.exit_code == 0, done.output
    used = json.loads((tmp_path / "plan" / "plan.json").read_text())["coefficients"]
    mine = [each for each in used if "elsewhere" in each["machine"]]
    assert not any(each["own"] for each in mine)
    assert all("another machine's" in note for each in mine for note in each["notes"][:1])
    assert "coefficients are another machine's" in done.stdout


def test_a_calibration_measures_what_it_was_designed_to_and_is_found_by_a_plan(own, monkeypatch, tmp_path) -> None:
    """Steps as small as they come: held is that they are measured, fitted and kept, not how fast they are."""
    monkeypatch.chdir(own)
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(own / "cache"))
    monkeypatch.setattr(calibrating, "LARGEST_STEP_S", {"cpu": 1e-4})
    monkeypatch.setattr(calibrating, "OVER_SMALLEST", 0.0)
    config = load(Path("own.toml"), "full", (), "cpu")
    case = planned(config)[0].case
    made, _ = calibrating.calibrate(config, case, "eager", 600.0)
    assert len(made.samples) >= calibrating.FEWEST
    assert {each.case.rpartition(" · ")[2].split()[0] for each in made.samples} >= {"e2e", "single_step", "multi_step"}
    assert all(each.measured_s > 0 and each.fitted_s > 0 for each in made.samples)
    assert made.key.tier == "padded"
    assert any(value > 0 for value in made.device_coefficients.values())
    path = coefficients.keep(made, tmp_path)
    assert coefficients.Calibration.model_validate_json(path.read_bytes()) == made


def test_a_calibration_without_time_is_refused(own) -> None:
    done = command(own, "calibrate", "--config", "own.toml", "--seconds", "2")
    assert done.exit_code == 2
    assert "--seconds 2: give 10 to 3600." in done.stderr
