"""What a rendered training run says, for every kind of run, and that it keeps to itself."""

from __future__ import annotations

import csv
import re

import pytest
from PIL import Image

from bench.results import training
from bench.results.analysis.training_summary import frames
from reports import numbers
from reports.page import render
from reports.quality import headline, paper, tables
from reports.quality.plots import curves
from tests.reports import _trainings
from tests.reports._terminals import plainly_printed, printed, read
from tests.reports.test_page import assert_keeps_to_itself, text

WITHOUT_FIGURES = ("all_failed", "one_class", "nothing_held_out", "nothing_yet")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return render(_trainings.write(tmp_path_factory.mktemp("training"), _trainings.mixed()))


@pytest.mark.parametrize("name", _trainings.SCENARIOS)
def test_every_kind_of_run_renders(name, tmp_path, rendered):
    """A failed, lone, interrupted or empty one still gives a page that is whole, with no stray None or NaN."""
    points = _trainings.SCENARIOS[name]()
    made = rendered if name == "mixed" else render(_trainings.write(tmp_path, points))
    run_dir = made.page.parent
    page = made.page.read_text()
    assert_keeps_to_itself(page)
    document = read(run_dir)
    for prose in (text(page), made.markdown.read_text(), printed(document, 120)):
        assert not re.search(r"\b(nan|None|inf)\b", prose)
    with open(made.csv, newline="") as file:
        assert len(list(csv.DictReader(file))) == len({str(point.case) + point.label for point in points})
    assert plainly_printed(document)
    assert bool(made.figures) is (name not in WITHOUT_FIGURES)
    for figure in made.figures:
        assert len(Image.open(figure).convert("RGB").getcolors(maxcolors=10**6)) > 20


def test_one_class_is_said_and_nothing_is_compared(tmp_path):
    """A quality that is not defined must end in a sentence that says why, not in an error after all trainings."""
    told = headline.tell(frames(_trainings.SCENARIOS["one_class"]()), _trainings.info())
    assert told.headline == "AUC is not defined on what was held out of movielens"
    assert told.sentences[0] == (
        f"AUC is not defined on the validation split ({_trainings.ONE_CLASS}) and the test split "
        f"({_trainings.ONE_CLASS})."
    )
    assert told.cards == ()
    in_test = headline.tell(frames(_trainings.SCENARIOS["one_class_in_test"]()), _trainings.info())
    assert f"AUC is not defined on the test split ({_trainings.ONE_CLASS})." in in_test.sentences
    assert not any(numbers.MISSING in sentence for sentence in in_test.sentences)
    of_e2e = headline.tell(frames(_trainings.SCENARIOS["one_class_of_e2e"]()), _trainings.info())
    assert of_e2e.headline == "e2e has no AUC to be compared with on movielens with minilm"


def test_the_headline_is_the_exact_method_that_gets_there_soonest(rendered):
    heading = re.search(r"<h1>(.*?)</h1>", rendered.page.read_text()).group(1)
    assert re.fullmatch(
        rf"single_step reaches end-to-end training's quality [\d.]+{numbers.TIMES} as fast on movielens with minilm",
        heading.replace("&#39;", "'"),
    )


def test_the_first_sentence_says_who_gets_to_e2es_quality_how_much_sooner_and_who_never_does():
    told = headline.tell(frames(_trainings.two_tasks()), _trainings.info()).sentences[:2]
    row = frames(_trainings.several()).only({"label": "single_step"}).summary.iloc[0]
    spread = numbers.ratio_range(row["speed_up_quality_low"], row["speed_up_quality_high"])
    assert told[0] == (
        f"With dkt: e2e's AUC, to within 0.5 points, is reached {numbers.speed_up(row, 'speed_up_quality')} as soon by "
        f"single_step (95 % {spread}); by multi_step N=10 with only 2 of 3 seeds and by multi_step N=0.5E with only 1 "
        "of 3 seeds; never by multi_step N=1E, frozen and ids_only."
    )
    assert told[1].startswith("With nrms: e2e's AUC")


def test_what_seeds_do_not_tell_apart_is_not_called_sooner():
    """An interval around 1 must not read as a gain, however the mean came out."""
    told = headline.tell(frames(_trainings.hardly_sooner()), _trainings.info())
    assert "but not measurably sooner" in told.headline
    assert "not distinguishable from e2e" in told.sentences[0]


def test_an_e2e_that_was_cut_short_is_said_to_be():
    """Its best is then no more than where the limit found it."""
    points = _trainings.several(seeds=(0,))
    cut = [
        point.model_copy(update={"stopped": "max_train_s"}) if point.method == "e2e" and point.stopped else point
        for point in points
    ]
    whole, short = (" ".join(headline.tell(frames(each), _trainings.info()).sentences) for each in (points, cut))
    assert "e2e was ended by train.max_train_s before its patience ran out" in short
    assert "was ended by" not in whole


def test_each_line_stands_beside_the_papers_with_its_table_and_its_log(tmp_path):
    made = render(_trainings.write(tmp_path, _trainings.two_tasks()))
    prose, markdown = text(made.page.read_text()), made.markdown.read_text()
    for shown in ("Duolingo French", "paper, Table 4", "MIND, titles", "paper, Table 5", "other machines"):
        assert shown in prose
        assert shown in markdown
    derived = frames(_trainings.two_tasks())
    responses, ranking = paper.section(derived).tables
    names = [column.label for column in responses.columns]
    rows = {row[0].text: dict(zip(names, row, strict=True)) for row in responses.groups[0].rows}
    assert "e2e" not in rows
    longest = rows["multi_step N=1E"]["TOEIC"]
    assert (longest.text, longest.note) == (f"146{numbers.TIMES}", "AUC -0.4, cold +0.4")
    assert [column.label for column in ranking.columns][3:] == ["MIND, titles", "MIND, titles and bodies"]
    assert "ids_only" not in {row[0].text for row in ranking.groups[0].rows}, "guard: the paper has none there"


def test_what_the_paper_has_nothing_of_has_no_such_section():
    assert paper.section(frames(_trainings.SCENARIOS["only_e2e"]())) is None


def test_a_quality_stands_with_its_interval_and_its_difference_to_e2e(rendered):
    derived = frames(_trainings.mixed())
    row = derived.only({"label": "single_step", "cf_module": "dkt"}).summary.iloc[0]
    prose, markdown = text(rendered.page.read_text()), rendered.markdown.read_text()
    for shown in (
        tables.points(row["test_auc"]),
        tables.between(row["test_auc_low"], row["test_auc_high"]),
        tables.between(row["difference_auc_low"], row["difference_auc_high"], signed=True),
        numbers.ratio_range(row["speed_up_quality_low"], row["speed_up_quality_high"]),
    ):
        assert shown in prose
        assert shown in markdown


def test_what_a_definition_rests_on_is_said(rendered):
    prose = text(rendered.page.read_text())
    assert "Evaluation, checkpoints and set-up are outside" in prose
    assert "at most 0.5 points below e2e" in prose
    assert "nDCG@10" in prose
    assert "CUDA ran out of memory" in prose


def test_whether_compilation_is_on_the_clock_is_said(rendered, tmp_path):
    assert "Compilation and graph capture happen within steps; they are inside" in text(rendered.page.read_text())
    config = {"train": {"untimed_steps": 8}}
    warmed = render(_trainings.write(tmp_path, _trainings.several(seeds=(0,)), _trainings.info(config=config)))
    assert "8 steps, taken and undone before the clock starts" in text(warmed.page.read_text())


def test_a_run_that_goes_on_is_called_unfinished(tmp_path):
    points = _trainings.SCENARIOS["interrupted"]()
    header = _trainings.info()
    run_dir = _trainings.write(tmp_path, points, header)
    training.store.write_info(run_dir, header.model_copy(update={"planned_records": 21}))
    assert "7 of 21 planned trainings have ended" in text(render(run_dir).page.read_text())


def test_without_e2e_nothing_is_compared():
    told = headline.tell(frames(_trainings.SCENARIOS["no_e2e"]()), _trainings.info())
    assert "nothing to compare" in " ".join(told.sentences)
    assert told.cards == ()


def test_who_never_reached_it_is_said_so():
    derived = frames(_trainings.SCENARIOS["never_reached"]())
    told = headline.tell(derived, _trainings.info())
    assert "No method reached" in told.headline
    assert told.sentences[0] == "e2e's AUC, to within 0.5 points, is never reached by frozen."
    assert "not reached" in str(tables.results(derived)[0])


def test_where_lines_end_is_not_squeezed_by_where_they_begin():
    """A line that comes from far below is cut off; the others, and every line's best, stay in the picture."""
    derived = frames(_trainings.several())
    bests = derived.points.groupby(["label", "seed"])["validation_auc"].max().groupby("label").mean()
    low = derived.points["validation_auc"].min()
    assert low < bests.min() - 3 * (bests.max() - bests.min()), "what the axis would go down to"
    ax = curves.PLOTS["quality_by_time"].draw(derived).axes[0]
    bottom, top = ax.get_ylim()
    assert low < bottom < bests.min()
    assert bottom == pytest.approx(bests.min() - 3 * (bests.max() - bests.min()))
    assert top > bests.max()


def test_axes_show_all_where_lines_begin_near_their_bests():
    """There is nothing to leave out then, and an axis that went down all the same would squeeze them itself."""
    points = [point for point in _trainings.several() if point.step > 200]
    derived = frames(points)
    ax = curves.PLOTS["quality_by_time"].draw(derived).axes[0]
    bests = derived.points.groupby(["label", "seed"])["validation_auc"].max().groupby("label").mean()
    shown_from = bests.min() - 3 * (bests.max() - bests.min())
    assert shown_from < ax.get_ylim()[0] < derived.points["validation_auc"].min()


def test_where_a_peer_was_not_at_its_best_is_said_beside_its_time(rendered, tmp_path):
    """A peer whose steps are launched one kernel at a time is slower for that, too: its time must not stand alone."""
    sentence = "its steps are launched kernel by kernel"
    told = [
        point.model_copy(update={"detail": point.detail.model_copy(update={"handicaps": (sentence,)})})
        if point.method == "frozen" and point.detail
        else point
        for point in _trainings.mixed()
    ]
    assert any(point.detail.handicaps for point in told if point.detail), "guard"
    made = render(_trainings.write(tmp_path, told))
    for path in (made.markdown, rendered.markdown):
        assert (sentence in path.read_text()) is (path is made.markdown)
    assert sentence in text(made.page.read_text())
    assert "Where a peer could not be given its best" in text(made.page.read_text())
