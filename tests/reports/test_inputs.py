"""Facts of encoders and workloads: none is lost that differs between records, and what was left out is told on top."""

from bench.results import store
from bench.results.detail import MeasurementDetail
from reports import page
from reports.sections import _inputs
from tests.reports import _runs
from tests.reports._terminals import printed

ROWS = {
    "rows_read": 100_000,
    "rows_dropped": {"duplicate row": 3},
    "rows_dropped_examples": {"duplicate row": "line 5"},
}
CLICKS = {
    "rows_read": 100_000,
    "rows_dropped": {"label below positive_from: no click": 76_285},
    "rows_dropped_examples": {"label below positive_from: no click": 'line 2, item_id "i1"'},
}
TOLD = (
    "table: 76,285 of 100,000 rows were left out: 76,285 label below positive_from: no click "
    '(for instance line 2, item_id "i1").'
)


def record(workload, *, cf_module="nrms", method="single_step", **axes):
    made = _runs.record(method, workload="table", **axes)
    detail = MeasurementDetail(workload=workload, encoder="d 384", weights="real", log="real")
    return made.model_copy(update={"case": {**made.case, "cf_module": cf_module}, "detail": detail})


def facts(records):
    return dict(_inputs.inputs(records))


def test_facts_that_hold_in_all_records_stand_once():
    assert facts([record({"items": 9}, batch_size=size) for size in (16, 32)])["table"] == "items 9"


def test_facts_of_two_tasks_stand_with_their_cf_module():
    found = facts([record({"items": 9, **CLICKS}), record({"items": 9, **ROWS}, cf_module="dkt", batch_size=64)])
    assert found["table"] == "items 9, rows read 100000"
    assert "rows dropped label below positive_from: no click 76285" in found["table, cf module nrms"]
    assert "rows dropped duplicate row 3" in found["table, cf module dkt"]


def test_facts_that_only_some_records_hold_are_not_lost():
    found = facts([record({"items": 9}), record({"items": 9, "share": 0.5}, cf_module="dkt")])
    assert found == {_runs.SHAPE: "d 384", "table": "items 9", "table, cf module dkt": "share 0.5"}


def test_a_fact_that_no_axis_explains_stands_with_all_its_values():
    assert facts([record({"items": 9, "ratio": ratio}) for ratio in (1, 8)])["table"] == "items 9, ratio 1 or 8"
    assert facts([record({"ratio": float(ratio)}) for ratio in range(9)])["table"] == "ratio 0 to 8"


def test_what_counts_nothing_is_not_listed():
    assert (
        facts([record({"items": 9, "item_rows_dropped": {}, "item_rows_read": 9})])["table"]
        == "items 9, item rows read 9"
    )


def test_what_was_left_out_is_told_where_it_is_more_than_a_few():
    assert _inputs.left_out_of([record(CLICKS), record(CLICKS, method="e2e")]) == (TOLD,)
    assert _inputs.left_out_of([record(ROWS)]) == ()
    assert _inputs.left_out_of([record(ROWS, cf_module="dkt"), record(CLICKS)]) == (f"With cf module nrms, {TOLD}",)
    assert _inputs.left_out_of([record({"notes": ["times are coarse"]})]) == ("table: times are coarse",)


def test_it_stands_under_the_headline_of_the_page_and_in_the_terminal(tmp_path):
    records = [record(CLICKS, method=method, ratio=None) for method in ("e2e", "single_step")]
    store.write_info(tmp_path, _runs.info(planned_records=2))
    for each in records:
        store.append(tmp_path, each)
    rendered = page.render(tmp_path)
    top = rendered.page.read_text().partition("<nav")[0]
    assert "76,285 of 100,000 rows were left out" in top
    assert "76,285 of 100,000 rows" in rendered.markdown.read_text().partition("##")[0]
    assert "76,285 of 100,000 rows were left out" in printed(tmp_path, 200)
