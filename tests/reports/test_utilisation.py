"""MFU and the table of encoders: shown where a rate was measured, absent where none was."""

import pytest

from bench.results.analysis.summary import frames
from bench.results.detail import TrainingDetail
from bench.results.training import TrainingPoint
from reports import tables
from reports.page import render
from reports.sections import tiers
from tests.reports import _runs

RATE = 8e14
WHY = "packed: model type modernbert has position or attention rules of its own"


def measured(method="single_step", seconds=0.02, share=0.4, **changes):
    """A record of steps that use this share of the matrix rate."""
    values = dict(samples_s=(seconds,) * 3, useful_flops=share * seconds * RATE, matrix_flops_per_s=RATE)
    return _runs.record(method, **values | changes)


def columns(table):
    return [column.label for column in table.columns]


def test_mfu_stands_beside_the_time_where_a_rate_was_measured(tmp_path):
    records = [measured("e2e", 0.1, 0.5), measured(share=0.25), measured("e2e_unique", matrix_flops_per_s=None)]
    derived = frames(records)
    for table in (*tables.headlines(derived), tables.every_result(derived)):
        place = columns(table).index("MFU")
        assert columns(table)[place - 1] == "Time per step"
        (rows,) = (group.rows for group in table.groups)
        names = [row[columns(table).index("Method")].text for row in rows]
        assert dict(zip(names, (row[place].text for row in rows), strict=True)) == {
            "e2e": "50", "single_step": "25", "e2e_unique": "\u2013",
        }  # fmt: skip
    page = render(_runs.write(tmp_path, records)).page.read_text()
    assert "<dt>MFU</dt>" in page


def test_without_any_rate_there_is_no_mfu_anywhere(tmp_path):
    derived = frames([measured(matrix_flops_per_s=None), measured("e2e", useful_flops=None)])
    for table in (*tables.headlines(derived), tables.every_result(derived)):
        assert "MFU" not in columns(table)
        assert all(len(row) == len(table.columns) for group in table.groups for row in group.rows)
    rendered = render(_runs.write(tmp_path, [measured(matrix_flops_per_s=None)]))
    assert "MFU" not in rendered.page.read_text() + rendered.markdown.read_text()


def test_a_summary_takes_the_median_over_blocks():
    derived = frames([measured(share=share, block=block) for block, share in enumerate((0.2, 0.3, 0.9))])
    assert derived.summary["mfu"].tolist() == pytest.approx([0.3])
    assert derived.summary["useful_flops"].notna().all()


def told(method, tier, why=None, engine="fast", **changes):
    detail = {"encoding": {"pooling": "last", "normalised": True}}
    return measured(method, engine=engine, tier=tier, why_no_faster_tier=why, detail=detail, **changes)


def test_which_encoder_ran_how_at_what_speed():
    records = [
        told("e2e", "general", WHY, seconds=0.1),
        told("single_step", "general", WHY, seconds=0.02),
        told("single_step", "general", WHY, seconds=0.04, share=0.3, batch_size=64),
        told("sentence_transformers", "its own, padded", "the package flash-attn is not installed", seconds=2.0),
        measured("e2e", engine="eager", seconds=0.5, share=0.1),
        _runs.record("single_step", engine="fast", outcome="oom", reason="out of memory", batch_size=128),
        measured("e2e", precision="float32", engine="eager"),
    ]
    (table,) = tiers.table(records)
    assert [group.title for group in table.groups] == [f"{_runs.SHAPE} · bf16", f"{_runs.SHAPE} · float32"]
    found = {(row[0].text, row[1].text): row for row in table.groups[0].rows}
    assert list(found) == [("fast", "general"), ("fast", "its own, padded"), ("eager", "\u2013")]
    ours = dict(zip(columns(table), found["fast", "general"], strict=True))
    assert ours["Methods"].text == "e2e and single_step"
    assert ours["Pooling"].text == "last, normalised"
    assert (ours["Time per step"].text, ours["Time per step"].note) == ("20.0 to 40.0", "single_step, 2 cases")
    assert ours["MFU"].text == "30 to 40"
    assert ours["Why no faster tier"].text == WHY
    theirs = dict(zip(columns(table), found["fast", "its own, padded"], strict=True))
    assert (theirs["Time per step"].text, theirs["Time per step"].note) == ("2\u202f000", "")
    assert "flash-attn" in theirs["Why no faster tier"].text


def test_trainings_and_older_runs_show_what_they_know():
    point = TrainingPoint.model_construct(
        case={"encoder": "minilm", "precision": "bf16"}, method="e2e", engine="fast", accumulation_steps=None,
        outcome=None, detail=TrainingDetail(tier="packed"),
    )  # fmt: skip
    (table,) = tiers.table([point])
    assert columns(table) == ["Engine", "Tier", "Methods", "Why no faster tier"]
    assert tiers.table([measured("e2e", engine="eager")]) == ()
