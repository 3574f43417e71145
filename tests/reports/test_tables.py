"""Words and tables: units, rounding, Markdown, terminal, TOML."""

from __future__ import annotations

import io
import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.results.analysis.summary import frames
from bench.results.store import load
from reports import numbers, tables, terminal, toml, words
from reports.table import HOLDS_ONE, MAY_BE_ONE, markdown
from tests.reports import _runs
from tests.reports._terminals import ascii_terminal, plainly_printed, printed, read, written


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.01234, "0.0123"), (1, "1.00"), (9.876, "9.88"), (329.4, "329"), (1234567, "1\u202f234\u202f567"), (0, "0"),
     (None, numbers.MISSING), (float("nan"), numbers.MISSING), (-2.5, "-2.50")],
)  # fmt: skip
def test_numbers(value, expected):
    assert numbers.number(value) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(2.91178, 3.04309, "2.912 to 3.043"), (1.938, 2.314, "1.94 to 2.31"), (0.5103, 1.874, "0.51 to 1.9"),
     (2.699, 13.79, "2.7 to 14"), (0.03, 40.0, "0.030 to 40"), (0.99406, 1.00904, "0.9941 to 1.009"),
     (0.09211, 0.09537, "0.09211 to 0.09537"), (2.0, 2.0, "2.000 to 2.000"), (1.00246, 1.25338, "1.002 to 1.25"),
     (0.6, 0.99996, "0.600 to 0.99996"), (0.8, 1.0, "0.800 to 1.00"), (1012.0, 1430.0, "1\u202f012 to 1\u202f430"),
     (-0.21, 3.4, "-0.21 to 3.4"), (1.0, float("inf"), "1.0 to \u221e"), (float("-inf"), 1.2, "-\u221e to 1.2")],
)  # fmt: skip
def test_an_interval_tells_the_digits_that_it_knows_and_never_writes_1_for_what_is_not_1(low, high, expected):
    assert numbers.ratio_range(low, high) == f"{expected}{numbers.TIMES}"


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [(1.0312, 0.92, 1.15, "1.03"), (2.966, 2.912, 3.043, "2.97"), (1.0012, 0.9941, 1.0090, "1.001"),
     (3.99, 2.6, 6.1, "4.0"), (4.08, 3.3, 4.9, "4.1"), (0.4, 0.02, 9.0, "0.4"), (123.0, 80.0, 190.0, "120"),
     (2.0, 2.0, 2.0, "2.000"), (2.966, None, None, "2.97"), (1012.0, 900.0, 1430.0, "1\u202f010"),
     (3.46, 1.0, float("inf"), "3")],
)  # fmt: skip
def test_a_ratio_has_no_more_digits_than_its_interval_leaves_known(value, low, high, expected):
    assert numbers.times(value, low, high) == f"{expected}{numbers.TIMES}"


@pytest.mark.parametrize(
    ("half", "expected"), [(None, "472"), (0.001, "472"), (0.05, "472"), (0.1, "470"), (0.5, "470"), (0.9, "500")]
)
def test_a_time_has_no_more_digits_than_its_windows_leave_known(half, expected):
    assert numbers.milliseconds(0.4717, half) == expected
    assert numbers.rate(471.7, half) == expected
    assert numbers.duration(47.17 * 600, half) == f"{numbers.known(7.86, half and 7.86 * half, 3)} h"


def test_a_speed_up_that_may_be_none_is_not_shown_as_a_result():
    """0.96 of an exact method where nothing repeats is noise: it says so beside it, and where there is no room too."""
    noisy = [
        each.model_copy(update={"samples_s": (0.1 * (1 + 0.2 * ((7 * each.block + place) % 5)),)})
        for place, each in enumerate(_runs.paired())
    ]
    (table,) = tables.headlines(frames(noisy))
    cells = {row[0].text: row[2] for group in table.groups for row in group.rows}
    cell = cells["single_step"]
    assert cell.kind == ""
    assert cell.note.endswith(f", {MAY_BE_ONE}")
    assert cell.short.endswith(f", {MAY_BE_ONE}")
    assert table.below == HOLDS_ONE
    out = io.StringIO()
    Console(file=out, width=80).print(terminal.drawn(table, 80))
    assert cell.short in out.getvalue()
    assert "the 95 % interval holds 1" in " ".join(out.getvalue().split())
    (sure,) = tables.headlines(frames([each for each in _runs.paired() if each.method != "e2e_unique"]))
    assert sure.below == ""
    assert "±" in sure.groups[0].rows[1][2].short


def test_an_interval_that_is_not_known_is_not_told():
    assert numbers.ratio_range(None, None) == numbers.ratio_range(float("nan"), 2.0) == ""


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (numbers.times(2.9659), f"2.97{numbers.TIMES}"),
        (numbers.milliseconds(0.110887), "111"),
        (numbers.gibibytes(1.5 * numbers.GIB), "1.50 GiB"),
        (numbers.gibibytes(300 * numbers.MIB), "300 MiB"),
        (numbers.percent(0.0379), "3.8 %"),
        (numbers.percent(1.0), "100 %"),
        (numbers.rate(609487), "609\u202f000"),
        (numbers.rate(188.24), "188"),
        (words.listing(["a", "b", "c"]), "a, b and c"),
        (words.listing([]), ""),
        (numbers.count(1, "case"), "1 case"),
        (numbers.count(12, "case"), "12 cases"),
        (numbers.count(10123, "line"), "10\u202f123 lines"),
    ],
)
def test_units(written, expected):
    assert written == expected


def test_axis_values_are_ordered_with_a_missing_one_last():
    assert words.order([8, None, 2.0, 16, 2, float("nan")]) == [2, 8, 16, None]


def test_headlines_show_all_of_few_cases_and_the_largest_of_many():
    few = tables.headlines(frames(_runs.real()))
    assert [len(table.groups) for table in few] == [3]
    assert few[0].left_out == 0
    (many,) = tables.headlines(frames(_runs.shape()))
    assert [group.title for group in many.groups] == [
        f"batch 64 users · text 32 tokens · ratio {ratio} asked for" for ratio in (1, 2, 4, 8, 16)
    ]
    assert many.rows + many.left_out == len(_runs.shape())


def test_every_cell_stands_under_a_column():
    derived = frames([*_runs.two_engines(), *_runs.full()])
    made = [
        *tables.headlines(derived),
        tables.every_result(derived),
        tables.engines(derived),
        tables.not_measured(derived),
    ]
    for table in made:
        assert table.rows
        assert all(len(row) == len(table.columns) for group in table.groups for row in group.rows)


def test_limits_count_what_they_leave_out():
    derived = frames(_runs.full())
    assert tables.every_result(derived, limit=10).left_out == len(_runs.full()) - 10
    assert tables.not_measured(derived, limit=3).left_out == sum(r.outcome != "ok" for r in _runs.full()) - 3


def test_precision_shows_each_interval_its_width_and_what_is_odd():
    derived = frames(_runs.paired(odd_block=0.4))
    table = tables.precision(derived)
    assert table.rows == len(_runs.LINES) - 1, "e2e against itself is the canary's"
    cells = {row[0].text: [cell.text for cell in row] for group in table.groups for row in group.rows}
    line = derived.summary.set_index("label").loc["single_step"]
    label, speed_up, interval, width, blocks, robust, canary, notes = cells["single_step"]
    assert speed_up == numbers.times(line["speed_up"], line["speed_up_low"], line["speed_up_high"])
    assert interval == numbers.ratio_range(line["speed_up_low"], line["speed_up_high"])
    assert float(width) == pytest.approx(100 * line["speed_up_half_width"], rel=0.1)
    assert (label, blocks) == ("single_step", "6")
    assert robust != speed_up
    assert canary == numbers.ratio_range(line["canary_low"], line["canary_high"])
    assert "block 4 of 6 is apart, +3" in notes
    assert tables.precision(frames(_runs.SCENARIOS["single_case"]())).rows == 0, "one block has no interval"


def test_headlines_show_a_speed_up_with_its_interval():
    (table,) = tables.headlines(frames(_runs.paired()))
    notes = {row[0].text: row[2].note for group in table.groups for row in group.rows}
    assert notes["e2e"] == ""
    assert " to " in notes["single_step"]


def test_markdown_has_one_row_per_line_and_no_loose_pipe():
    (table,) = tables.headlines(frames([_runs.record("e2e"), _runs.record("a|b")]))
    lines = markdown(table).splitlines()
    assert len(lines) == 2 + len(table.groups) + table.rows
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(table.columns) + 1}


@pytest.mark.parametrize("name", _runs.SCENARIOS)
def test_the_terminal_shows_every_kind_of_run(name, tmp_path):
    """Narrow or wide; signs that an ASCII one lacks must not end a run in an error after all its measurements."""
    document = read(_runs.write(tmp_path, _runs.SCENARIOS[name]()))
    for width in (60, 160):
        shown = printed(document, width)
        assert "nan" not in shown
        assert max(len(line) for line in shown.splitlines()) <= width
        if name in ("full", "blocks") and width >= 80:
            assert "single_step" in shown
            assert numbers.TIMES in shown
    plain = plainly_printed(document)
    assert plain
    if name == "blocks":
        assert re.search(r"\d\.\d+x", plain)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.97\u00d7", "2.97x"),
        ("a \u00b7 b", "a - b"),
        ("\u00b11.2\u202f%", "+-1.2 %"),
        ("\u6a21 \u00e9 \udc80", "? e ?"),
    ],
)
def test_what_a_terminal_cannot_write_becomes_plain(text, expected):
    out = ascii_terminal()
    out.write(text)
    assert written(out) == expected


def test_the_terminal_says_what_was_not_measured(tmp_path):
    assert "Not measured: 9 out of memory" in printed(_runs.write(tmp_path, _runs.full()), 120)


def test_the_terminal_shows_intervals_where_there_is_room_and_the_canary(tmp_path):
    run_dir = _runs.write(tmp_path, _runs.paired())
    line = frames(load(run_dir).records).summary.set_index("label").loc["single_step"]
    shown = printed(run_dir, 140)
    assert f"({numbers.ratio_range(line['speed_up_low'], line['speed_up_high'])})" in shown
    assert "The environment can be trusted: e2e measured against itself in 1 case" in shown


SIGNS = st.characters(exclude_categories=["Cs"])
SCALARS = st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(SIGNS, max_size=5)
KEYS = st.sampled_from(["seed", "batch-size", "two words", 'qu"ote', "ä", "", "a.b"])
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(KEYS, SCALARS, max_size=2)
TABLES = st.dictionaries(KEYS, VALUES | st.lists(st.dictionaries(KEYS, SCALARS, max_size=2), max_size=2), max_size=3)


@settings(max_examples=50)
@given(st.dictionaries(KEYS, TABLES | VALUES, max_size=3))
def test_a_configuration_survives_toml(config):
    assert tomllib.loads(toml.write(config)) == config


def test_unset_keys_are_named_in_toml():
    written = toml.write({"run": {"seed": 0, "max_grad_norm": None}, "sweep": {"part": [{"a": 1}, {"a": 2}]}})
    assert "# max_grad_norm is not set" in written
    assert tomllib.loads(written) == {"run": {"seed": 0}, "sweep": {"part": [{"a": 1}, {"a": 2}]}}
