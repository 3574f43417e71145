"""Every registered figure, whatever its file: it has words, draws what there is, and draws nothing on nothing."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from functools import cache

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from bench.results.analysis.summary import frames
from bench.results.analysis.training_summary import frames as training_frames
from reports import figures
from reports.figures import _style
from reports.quality import plots as training_figures
from tests.reports import _runs, _trainings

MODULES = figures.discover()


def test_figures_are_found_by_file_name():
    assert "speed_up_by_repetition" in MODULES
    assert not any(name.startswith("_") for name in MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_figure_says_what_it_shows(name):
    plot = MODULES[name]
    assert plot.title
    assert plot.caption.endswith(".")


@cache
def everything():
    """A sweep that every figure has something of."""
    swept = _runs.shape((16, 32), (32, 128), (1, 4))
    return frames([*swept, *_runs.peers(ratios=(3, 5)), *_runs.several_processes()])


@pytest.mark.parametrize("name", MODULES)
def test_a_figure_of_a_full_sweep_is_not_blank(name):
    derived = everything()
    if not MODULES[name].whole_run:
        derived = derived.only({"encoder": _runs.SHAPE, "world_size": 1})
    with mpl.rc_context(_style.RC):
        drawn = MODULES[name].draw(derived)
        out = io.BytesIO()
        drawn.savefig(out, dpi=40)
    colors = Image.open(out).convert("RGB").getcolors(maxcolors=10**6)
    assert len(colors) > 20


def test_the_ideal_line_is_speed_up_equals_ratio():
    derived = frames(_runs.shape((32,), (32,)))
    with mpl.rc_context(_style.RC):
        ax = MODULES["speed_up_by_repetition"].draw(derived).axes[0]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert len(dashed) == 1
    assert list(dashed[0].get_xdata()) == list(dashed[0].get_ydata())


def test_out_of_memory_is_hatched_and_labelled():
    derived = frames(_runs.shape())
    with mpl.rc_context(_style.RC):
        drawn = MODULES["heat_memory"].draw(derived)
    written = [text.get_text() for ax in drawn.axes for text in ax.texts]
    hatched = [patch for ax in drawn.axes for patch in ax.patches if patch.get_hatch() == "////"]
    failures = sum(record.outcome == "oom" for record in _runs.shape())
    assert written.count("OOM") == len(hatched) == failures > 0


def test_titles_of_a_row_of_panels_do_not_meet():
    """A long label stands over the first of several narrow panels."""
    derived = frames(_runs.shape())
    longest = derived.summary["label"].replace("multi_step N=16", "historical_embeddings N=0.125E")
    assert "historical_embeddings N=0.125E" in set(longest), "guard"
    derived = replace(derived, summary=derived.summary.assign(label=longest))
    with mpl.rc_context(_style.RC):
        figure = MODULES["heat_memory"].draw(derived)
        figure.draw_without_rendering()
    rows: dict[float, list] = {}
    for ax in figure.axes:
        rows.setdefault(ax.get_position().y0, []).append(ax._left_title.get_window_extent())
    assert max(len(row) for row in rows.values()) > 1, "guard"
    for row in rows.values():
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(sorted(row, key=lambda box: box.x0)))


def test_a_missing_reference_is_told_apart_from_an_own_failure():
    derived = frames(_runs.shape())
    with mpl.rc_context(_style.RC):
        drawn = MODULES["heat_speed_up"].draw(derived)
    written = [text.get_text() for ax in drawn.axes for text in ax.texts]
    assert "e2e\nOOM" in written
    assert "OOM" in written


def test_settings_are_drawn_apart_and_the_most_telling_first():
    drawn = list(figures.draw_all(frames([*_runs.shape((16, 32), (32,), (1, 4)), *_runs.real()])))
    settings = list(dict.fromkeys(each.setting for each in drawn))
    assert settings[0].startswith("Real log, real weights")
    assert settings[1].startswith("Random weights")
    assert settings[-1] == ""
    assert len({each.name for each in drawn}) == len(drawn)


def test_every_picture_is_a_file_of_its_own():
    """Names that are long, or differ in signs that no file's name holds, must not write over one another."""
    encoders = [f"path:{name}" for name in ("x" * 150 + "a", "x" * 150 + "b", "tiny_bert", "tiny-bert", "Tiny-bert")]
    records = [each for name in encoders for each in _runs.shape((16,), (32,), (1, 4), encoder=name)]
    points = [each for name in encoders for each in _trainings.several(seeds=(0,), encoder=name)]
    for drawn in (list(figures.draw_all(frames(records))), list(training_figures.draw_all(training_frames(points)))):
        names = [each.name for each in drawn]
        assert len({each.setting for each in drawn} - {""}) == len(encoders)
        assert len(set(names)) == len(names) > len(encoders)
        assert max(map(len, names)) <= figures.LONGEST_NAME + 2


def test_more_settings_than_fit_are_counted():
    records = [each for k in range(8) for each in _runs.shape((16, 32), (32,), (2,), encoder=f"shape:{k}")]
    derived = frames(records)
    assert figures.undrawn(derived) == 2


def test_methods_that_are_not_known_by_name_get_looks_of_their_own():
    names = ["e2e", "single_step", "brand_new", "another"]
    looks = _style.looks(frames([_runs.record(name) for name in names]).summary)
    assert len({look.color for look in looks.values()}) == len(names)


def with_two_encoders():
    """Several processes, each line with two encoders."""
    found = _runs.several_processes()
    other = {"encoder": "shape:qwen3-embedding-0.6b", "adapter": "lora"}
    return frames([*found, *(line.model_copy(update={"case": line.case | other}) for line in found)])


@pytest.mark.parametrize("name", ["weak_scaling", "strong_scaling"])
def test_panels_say_apart_what_differs_and_no_title_meets_another_panel(name):
    with mpl.rc_context(_style.RC):
        figure = MODULES[name].draw(with_two_encoders())
        renderer = FigureCanvasAgg(figure).get_renderer()
    panels = [ax for ax in figure.axes if ax.get_visible()]
    titles = [ax.get_title(loc="left") for ax in panels]
    assert len(set(titles)) == len(titles) > 1
    boxes = [ax.get_tightbbox(renderer) for ax in panels]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)


def test_intervals_of_one_and_of_several_processes_are_lines_of_their_own():
    derived = with_two_encoders()
    with mpl.rc_context(_style.RC):
        ax = MODULES["interval_repetition"].draw(derived).axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(set(names)) == len(names)
    sizes = derived.summary.loc[derived.summary["interval_repetition_ratio"].notna(), "world_size"].unique()
    assert all(any(f"{size} processes" in name for name in names) for size in sizes if size > 1)
