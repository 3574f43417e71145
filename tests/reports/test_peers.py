"""The section and the figure on peers: who is first, who is beaten by whom, and how sure that is."""

from __future__ import annotations

import pytest

from bench.results.analysis.summary import frames
from bench.results.schema import PeakMemory, Record
from bench.results.store import load
from reports import headline, words
from reports.figures import _style, peers_by_repetition
from reports.page import render
from reports.sections import peers
from tests.reports import _runs

MIB = 2**20


def line(method: str, seconds: float, *, exactness="exact", memory=100 * MIB, block=0, **case) -> Record:
    steps = 16 if method == "multi_step" else None
    return _runs.record(
        method,
        steps,
        block=block,
        exactness=exactness,
        samples_s=(seconds,) * 3,
        peak_memory_bytes=PeakMemory(allocated=memory),
        **case,
    )


def section(tmp_path, records):
    run = load(_runs.write(tmp_path, records))
    return peers.make(run, frames(run.records))


def test_a_run_without_peers_has_no_such_section(tmp_path):
    assert section(tmp_path, _runs.blocks()) is None


def test_a_peer_that_wins_is_named_with_its_case_and_its_margin(tmp_path):
    """The losses stand as plainly as the wins."""
    records = [
        line("e2e", 0.4, ratio=4.0, memory=400 * MIB),
        line("single_step", 0.1, ratio=4.0),
        line("gradient_cache_unique", 0.14, ratio=4.0, memory=50 * MIB),
        line("e2e", 0.1, ratio=1.0),
        line("single_step", 0.1, ratio=1.0),
        line("gradient_cache_unique", 0.08, ratio=1.0),
        line("e2e", 0.2, ratio=2.0),
        line("single_step", 0.1, ratio=2.0),
        line("gradient_cache_unique", 0.101, ratio=2.0),
    ]
    told = section(tmp_path, records)
    time, memory = told.notes[:2]
    assert time == (
        "In time per step, among exact methods, single_step is first in 1 of 3 cases, level with the first in 1, "
        f"beaten in 1: by gradient_cache_unique on synthetic at ratio 1.00 (1.25{words.TIMES})."
    )
    assert memory == (
        "In peak memory, among exact methods, single_step is first in 0 of 3 cases, level with the first in 2, "
        f"beaten in 1: by gradient_cache_unique on synthetic at ratio 4.00 (2.00{words.TIMES})."
    )


def test_with_blocks_only_an_interval_decides_who_is_first(tmp_path):
    """A mean 5 % ahead whose interval reaches back over 1 is no win."""
    noise = {0: 0.95, 1: 1.06, 2: 0.86}
    records = [
        made
        for block, factor in noise.items()
        for made in (
            line("e2e", 0.4, block=block),
            line("single_step", 0.1, block=block),
            line("gradient_cache", 0.1 * factor, block=block),
        )
    ]
    assert "level with the first in 1" in section(tmp_path / "noisy", records).notes[0]
    steady = [
        made
        for block in range(3)
        for made in (
            line("e2e", 0.4, block=block),
            line("single_step", 0.1, block=block),
            line("gradient_cache", 0.098 + block * 1e-5, block=block),
        )
    ]
    note = section(tmp_path / "steady", steady).notes[0]
    assert "beaten in 1: by gradient_cache" in note
    assert " to 1.02" in note


def test_stale_methods_are_held_against_multi_step_and_bounds_are_called_so(tmp_path):
    records = [
        line("e2e", 0.4),
        line("single_step", 0.1),
        line("multi_step", 0.05, exactness="stale", memory=40 * MIB),
        line("speedyfeed", 0.08, exactness="stale", memory=90 * MIB),
        line("frozen", 0.01, exactness="other-model"),
    ]
    told = section(tmp_path, records)
    notes = " ".join(told.notes)
    assert "In time per step, among stale methods, multi_step is first in 1 of 1 case." in notes
    assert "In peak memory, among stale methods, multi_step is first in 1 of 1 case." in notes
    assert "frozen: another model" in notes
    assert "gram-bench train" in notes
    (table,) = told.tables
    kinds = [row[1].text for row in table.groups[0].rows]
    assert kinds == sorted(kinds, key=peers.KINDS.index)
    cells = {row[0].text: [cell.text for cell in row] for row in table.groups[0].rows}
    assert cells["speedyfeed"][3] == f"1.25{words.TIMES}"
    assert cells["speedyfeed"][7] == "90"


def test_a_stale_peer_that_wins_is_named_with_the_interval_of_the_pairs(tmp_path):
    records = [
        made
        for block in range(3)
        for made in (
            line("single_step", 0.1, block=block),
            line("multi_step", 0.09 * (1 + block), exactness="stale", block=block),
            line("speedyfeed", 0.045 * (1 + block), exactness="stale", block=block),
        )
    ]
    notes = " ".join(section(tmp_path, records).notes)
    assert f"beaten in 1: by speedyfeed on synthetic at ratio 4.00 (2.000{words.TIMES}, 2.000 to 2.000" in notes


def test_engines_are_told_apart_and_what_was_not_at_its_best_is_said(tmp_path):
    records = [*_runs.peers(), *(each.model_copy(update={"engine": "fast"}) for each in _runs.peers())]
    told = section(tmp_path, records)
    assert any(note.startswith("Engine eager. In time") for note in told.notes)
    assert any(note.startswith("Engine fast. In time") for note in told.notes)
    eager, fast, handicaps = told.tables
    assert (eager.title.endswith("engine eager"), fast.title.endswith("engine fast")) == (True, True)
    (row,) = handicaps.groups[0].rows
    assert [cell.text for cell in row] == [
        "gradient_cache, gradient_cache_unique, speedyfeed and frozen",
        "its steps are launched kernel by kernel",
    ]


@pytest.mark.parametrize("blocks", [1, 3])
def test_page_and_markdown_carry_the_table_and_the_figure(tmp_path, blocks):
    rendered = render(_runs.write(tmp_path, _runs.peers(blocks)))
    page, markdown = rendered.page.read_text(), rendered.markdown.read_text()
    assert 'id="peers"' in page
    assert "## Against the peers" in markdown
    assert "| Speed against single\\_step (95 % interval) |" in markdown
    assert any("peers_by_repetition" in path.name for path in rendered.figures)
    row = next(text for text in markdown.splitlines() if text.startswith("| sentence\\_transformers | exact"))
    assert row.endswith("| skipped |")
    measured = next(text for text in markdown.splitlines() if text.startswith("| gradient\\_cache | exact"))
    assert (" to " in measured) == (blocks > 1)


def test_a_noisy_line_does_not_hide_the_fastest_exact_method_from_the_headline():
    """Medians and paired ratios of a noisy line disagree about e2e's time; only whole engines are to be left out."""
    records = [
        made
        for block, seconds in enumerate((0.5, 0.5, 2.0))
        for made in (
            line("e2e", 0.4, block=block),
            line("single_step", 0.1, block=block),
            line("activation_checkpointing", seconds, block=block),
        )
    ]
    assert headline.tell(frames(records), _runs.info()).headline.startswith("single_step is")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.1, None),  # 4 times as fast at a ratio of 4
        (0.097, None),  # as far beyond as one process may lie
        (
            0.08,
            "1 of 2 lines of exact methods is faster than deduplication by itself can be, single_step by most (5.00",
        ),
    ],
)
def test_more_than_the_repetition_ratio_is_not_taken_for_a_gain(seconds, expected):
    """On a busy machine one process a line has shown 4.3 times at a ratio of 4."""
    records = [line("e2e", 0.4), line("e2e_unique", 0.102), line("single_step", seconds)]
    told = [
        text for text in headline.tell(frames(records), _runs.info()).sentences if "deduplication by itself" in text
    ]
    assert len(told) == (expected is not None)
    assert all(text.startswith(str(expected)) for text in told)


def test_an_interval_that_holds_the_ratio_speaks_for_itself():
    """An interval shows how much is noise; one that lies beyond the ratio is told, as a gain that is not GRAM's."""

    def told(*times: float) -> str:
        blocks = [
            made for b, s in enumerate(times) for made in (line("e2e", 0.4, block=b), line("single_step", s, block=b))
        ]
        sentences = headline.tell(frames(blocks), _runs.info()).sentences
        return " ".join(text for text in sentences if "deduplication by itself" in text)

    assert not told(0.07, 0.11, 0.08, 0.1)
    beyond = told(0.080, 0.081, 0.079, 0.080)
    assert "its interval lies beyond that ratio" in beyond
    assert "run.blocks" not in beyond, "several processes were taken already"
    assert "several processes tell (run.blocks=6)" in told(0.08)


def test_the_figure_is_in_parts_of_single_step_and_bars_are_over_blocks():
    drawn = peers_by_repetition.draw(frames(_runs.peers(blocks=3)))
    time = drawn.axes[0]
    widths = [line.get_ydata() for line in time.lines]
    ones = [list(values) for values in widths if len(values) == 3 and all(abs(v - 1) < 1e-9 for v in values)]
    assert len(ones) == 1, "single_step is the line at 1"
    assert any(len(collection.get_segments()) == 3 for collection in time.collections)
    assert peers_by_repetition.draw(frames(_runs.peers(ratios=(4,)))) is None
    assert peers_by_repetition.draw(frames(_runs.shape((32,), (32,)))) is None


def test_every_peer_has_a_look_of_its_own():
    """Nine of them beside ours: colours and markers must not come twice."""
    names = ["e2e", "e2e_unique", "single_step", "multi_step", *(f"peer{number}" for number in range(9))]
    looks = _style.looks(frames([_runs.record(name) for name in names]).summary)
    assert len({(look.color, look.marker) for look in looks.values()}) == len(names)
    assert len({look.color for look in looks.values()}) == len(names)
