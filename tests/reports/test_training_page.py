"""What a rendered training run says, for every kind of run, and that it keeps to itself."""

from __future__ import annotations

import csv
import io
import re

import matplotlib as mpl
import pytest
from PIL import Image
from rich.console import Console

from bench.results import training
from bench.results.training_summary import frames
from reports import words
from reports.figures import _style
from reports.page import render
from reports.training import figures, story, tables
from reports.training.terminal import print_training
from tests.reports import _trainings
from tests.reports.test_page import assert_keeps_to_itself, text


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return render(_trainings.write(tmp_path_factory.mktemp("training"), _trainings.mixed()))


@pytest.mark.parametrize("name", _trainings.SCENARIOS)
def test_every_kind_of_run_renders(name, tmp_path):
    """A failed, lone, interrupted or empty one still gives a page that is whole, with no stray None or NaN."""
    points = _trainings.SCENARIOS[name]()
    run_dir = _trainings.write(tmp_path, points)
    made = render(run_dir)
    page = made.page.read_text()
    assert_keeps_to_itself(page)
    out = io.StringIO()
    print_training(training.load(run_dir), Console(file=out, width=120))
    for prose in (text(page), made.markdown.read_text(), out.getvalue()):
        assert not re.search(r"\b(nan|None|inf)\b", prose)
    with open(made.csv, newline="") as file:
        assert len(list(csv.DictReader(file))) == len({str(point.case) + point.label for point in points})


def test_the_headline_is_the_exact_method_that_gets_there_soonest(rendered):
    heading = re.search(r"<h1>(.*?)</h1>", rendered.page.read_text()).group(1)
    assert re.fullmatch(
        rf"single_step reaches end-to-end training's quality [\d.]+{words.TIMES} as fast on movielens with minilm",
        heading.replace("&#39;", "'"),
    )


def test_a_quality_stands_with_its_interval_and_its_difference_to_e2e(rendered):
    derived = frames(_trainings.mixed())
    row = derived.only({"label": "single_step", "cf_module": "dkt"}).summary.iloc[0]
    prose, markdown = text(rendered.page.read_text()), rendered.markdown.read_text()
    for shown in (
        tables.points(row["test_auc"]),
        tables.between(row["test_auc_low"], row["test_auc_high"]),
        tables.between(row["difference_auc_low"], row["difference_auc_high"], signed=True),
        words.ratio_range(row["speed_up_quality_low"], row["speed_up_quality_high"]),
    ):
        assert shown in prose
        assert shown in markdown


def test_what_a_definition_rests_on_is_said(rendered):
    prose = text(rendered.page.read_text())
    assert "Evaluation, checkpoints and set-up are outside" in prose
    assert "at most 0.5 points below e2e" in prose
    assert "nDCG@10" in prose
    assert "CUDA ran out of memory" in prose


def test_a_run_that_goes_on_is_called_unfinished(tmp_path):
    points = _trainings.SCENARIOS["interrupted"]()
    header = _trainings.info()
    run_dir = _trainings.write(tmp_path, points, header)
    training.store.write_info(run_dir, header.model_copy(update={"planned_records": 21}))
    assert "7 of 21 planned trainings have ended" in text(render(run_dir).page.read_text())


def test_without_e2e_nothing_is_compared():
    told = story.tell(frames(_trainings.SCENARIOS["no_e2e"]()), _trainings.info())
    assert "nothing to compare" in " ".join(told.sentences)
    assert told.cards == ()


def test_who_never_reached_it_is_said_so():
    derived = frames(_trainings.SCENARIOS["never_reached"]())
    assert "No method reached" in story.tell(derived, _trainings.info()).headline
    assert "not reached" in str(tables.results(derived)[0])


@pytest.mark.parametrize("name", figures.discover())
@pytest.mark.parametrize("scenario", ["three_seeds", "one_seed", "all_failed", "nothing_yet"])
def test_a_figure_draws_what_there_is(name, scenario):
    module = figures.discover()[name]
    assert module.CAPTION.endswith(".")
    with mpl.rc_context(_style.RC):
        drawn = module.draw(frames(_trainings.SCENARIOS[scenario]()), _trainings.info())
        if scenario in ("all_failed", "nothing_yet"):
            assert drawn is None
            return
        out = io.BytesIO()
        drawn.savefig(out, dpi=40)
    assert len(Image.open(out).convert("RGB").getcolors(maxcolors=10**6)) > 20
