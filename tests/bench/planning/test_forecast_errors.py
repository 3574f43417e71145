"""`python -m docs.tools.forecast_errors`: what is planted in a run's lines comes out as their errors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.configuration.config import load
from bench.planning.cost import Costs
from bench.results import store
from docs.tools import forecast_errors as tool
from tests.bench.planning._parts import COSTS
from tests.reports import _runs

SIZES = (4, 8, 12, 24)
LINES = [("e2e", None), ("e2e_unique", None), ("single_step", None), ("multi_step", 2)]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Lines of a run directory whose times are a cost model's own, and whose peaks are half of what shapes say."""
    records = [
        _runs.record(method, steps, batch_size=size, text_length=16, ratio=2.0, encoder="shape:tiny",
                     engine="eager")
        for size in SIZES for method, steps in LINES
    ]  # fmt: skip
    records.append(records[0].model_copy(update={"replica": 1}))
    records.append(_runs.record("frozen", None, batch_size=4, text_length=16, ratio=2.0, encoder="shape:tiny"))
    folder = tmp_path_factory.mktemp("run")
    config = load(None, "quick", ["workload.items=4000", "run.device=cuda"], "cuda").model_dump(mode="json")
    store.write_info(folder, _runs.info(config=config, planned_records=len(records)))
    store.append(folder, *records)
    found, left_out = tool.lines_of([folder])
    assert left_out == {"canary": 1, "method frozen": 1}
    planted = Costs("cuda", {**COSTS, "launches": 0.0}, {"launches": 0.0, "slots": 0.0, "step": 0.0})
    return [
        replace(each.line, seconds=planted.step_s(each.measured.work), peak_bytes=0.5 * each.measured.shape_bytes)
        for each in tool.stepped_of(found)
    ]


@pytest.fixture(scope="module")
def group(lines):
    """The lines held against forecasts from some of them."""
    (own,) = tool.groups_of(lines)
    return tool.held_against(own)


def test_a_run_that_is_as_the_model_has_it_is_forecast(group) -> None:
    assert len(group.calibration.samples) >= 8
    assert {each.item.line.method for each in group.errors} >= {"multi_step"}
    for each in group.errors:
        assert abs(each.step) < 0.05
        assert each.memory == pytest.approx(0, abs=1e-6)
        assert each.covered


def test_a_line_that_is_off_is_the_worst_and_what_was_fitted_is_not_judged(lines, group) -> None:
    fitted = {each.line.item for each in tool.chosen(tool.stepped_of(lines))}
    unseen = group.errors
    assert not fitted & {each.item for each in unseen}
    spoilt = unseen[0].item
    changed = [replace(each, seconds=2 * each.seconds, peak_bytes=2 * each.peak_bytes) if each.item == spoilt else each
               for each in lines]  # fmt: skip
    errors = tool.held_against(changed).errors
    first = tool.worst(errors, 1)[0]
    assert first.item == spoilt
    assert first.step == pytest.approx(-0.5, abs=0.05)
    assert first.memory == pytest.approx(-0.5, abs=1e-6)
    assert not first.covered


def test_what_the_same_texts_pass_twice_is_not_called_unseen(lines, group) -> None:
    fitted = {each.line.item for each in tool.chosen(tool.stepped_of(lines))}
    for each in group.errors:
        twin = replace(each.item, line=replace(each.item.line, method="single_step"))
        assert each.item.line.method != "e2e_unique" or twin not in fitted
