"""The sweep as a list of work."""

from dataclasses import fields
from pathlib import Path

import pytest

from bench import methods
from bench.configuration import method_settings
from bench.configuration.case import Case
from bench.configuration.config import Config, load
from bench.configuration.sweep import MethodLine, WorkItem, plan
from bench.errors import ConfigError
from bench.results.schema import Record


def configured(**axes) -> Config:
    return Config.model_validate({"sweep": {"encoder": "shape:tiny", **axes}})


def record_of(item: WorkItem) -> Record:
    return Record(
        case=item.case.axes(),
        method=item.line.method,
        engine=item.line.engine,
        accumulation_steps=item.line.accumulation_steps,
        block=item.block,
        exactness="exact",
        outcome="ok",
    )


def test_the_plan_is_the_product_of_the_axes():
    items = plan(configured(batch_size=[2, 4], text_length=[8, 16], item_repetition_ratio=[1, 2, 4], method=["e2e"]))
    assert len(items) == len(set(items)) == 12
    assert {item.case.batch_size for item in items} == {2, 4}


def test_accumulation_steps_multiply_only_the_methods_that_have_them():
    """ "auto" is an interval only for those that can choose one."""
    methods = ["e2e", "single_step", "multi_step", "pseudo_target_regression"]
    items = plan(configured(item_repetition_ratio=1, accumulation_steps=[4, "0.5E", "auto"], method=methods))
    assert [(item.line.method, item.line.accumulation_steps) for item in items] == [
        ("e2e", None),
        ("single_step", None),
        ("multi_step", 4),
        ("multi_step", "0.5E"),
        ("multi_step", "auto"),
        ("pseudo_target_regression", 4),
        ("pseudo_target_regression", "0.5E"),
    ]


def test_a_real_log_is_not_multiplied_by_the_asked_for_ratios():
    items = plan(configured(workload=["synthetic", "movielens"], item_repetition_ratio=[1, 2, 4], method=["e2e"]))
    assert [item.case.item_repetition_ratio for item in items if item.case.workload == "movielens"] == [None]
    assert [item.case.item_repetition_ratio for item in items if item.case.workload == "synthetic"] == [4, 2, 1]


def test_real_logs_come_first_and_small_cases_before_larger_ones():
    items = plan(
        configured(workload=["synthetic", "movielens"], batch_size=[32, 2], item_repetition_ratio=[1, 8], method="e2e")
    )
    workloads = [item.case.workload for item in items]
    assert workloads == sorted(workloads)  # movielens before synthetic
    sizes = [
        (item.case.batch_size, item.case.item_repetition_ratio) for item in items if workloads[0] != item.case.workload
    ]
    assert sizes == [(2, 8), (2, 1), (32, 8), (32, 1)]


def test_lines_of_a_case_stay_together():
    items = plan(configured(batch_size=[2, 4], item_repetition_ratio=[1, 2]))
    cases = [item.case for item in items]
    assert [case for number, case in enumerate(cases) if not number or cases[number - 1] != case] == list(
        dict.fromkeys(cases)
    )


def test_blocks_of_a_case_stay_together():
    once = plan(configured(item_repetition_ratio=[1, 2], method=["e2e", "single_step"]))
    config = configured(item_repetition_ratio=[1, 2], method=["e2e", "single_step"])
    items = plan(config.model_copy(update={"run": config.run.model_copy(update={"blocks": 2})}))
    assert [item.block for item in items] == [0, 0, 1, 1] * 2
    assert [item for item in items if item.block == 0] == list(once)


def test_the_canary_is_the_first_e2e_once_more():
    run = {"blocks": 2, "canary": True}
    axes = {"encoder": "shape:tiny", "item_repetition_ratio": 1, "method": ["single_step", "e2e"]}
    items = plan(Config.model_validate({"run": run, "sweep": axes}))
    assert [(item.line.method, item.replica, item.block) for item in items] == [
        ("single_step", 0, 0), ("e2e", 0, 0), ("e2e", 1, 0), ("single_step", 0, 1), ("e2e", 0, 1), ("e2e", 1, 1),
    ]  # fmt: skip
    assert len({item.key for item in items}) == 6
    without = plan(Config.model_validate({"run": run, "sweep": axes | {"method": ["single_step"]}}))
    assert {item.replica for item in without} == {0}


def test_more_blocks_than_the_most_are_refused():
    with pytest.raises(ConfigError, match="max_blocks"):
        load(None, "full", ["run.blocks=8", "run.max_blocks=7"], "cpu")


def test_a_case_that_two_parts_name_is_measured_once():
    config = Config.model_validate(
        {"sweep": {"item_repetition_ratio": 1, "part": [{"method": ["e2e"]}, {"method": ["e2e", "single_step"]}]}}
    )
    assert [item.line.method for item in plan(config)] == ["e2e", "single_step"]


def test_parts_replace_only_the_axes_that_they_name():
    config = Config.model_validate(
        {"sweep": {"method": "e2e", "item_repetition_ratio": 2, "part": [{"batch_size": 4}, {"text_length": 8}]}}
    )
    assert {(item.case.batch_size, item.case.text_length) for item in plan(config)} == {(4, 32), (32, 8)}


def test_a_record_has_the_key_of_its_item_after_a_round_trip_through_json():
    """Otherwise resume would measure again what it has."""
    items = plan(configured(layers=["all", 1], item_repetition_ratio=[1, 2.5], accumulation_steps=[4, "0.5E"]))
    read = [Record.model_validate_json(record_of(item).model_dump_json()) for item in items]
    assert [record.key for record in read] == [item.key for item in items]
    assert len({item.key for item in items}) == len(items)


@pytest.mark.parametrize("field", [field.name for field in fields(Case)])
def test_every_axis_is_part_of_the_key(field):
    case = Case("synthetic", "minilm", None, 2, 5, 8, 2.0, "float32")
    other = Case(**{**case.axes(), field: "other"})
    line = MethodLine("e2e", "eager")
    assert WorkItem(case, line).key != WorkItem(other, line).key


def test_the_committed_sweep_is_the_one_that_the_project_promises():
    """Batch x text x ratio x method on the paper's shape, and MiniLM on MovieLens."""
    config = load(Path(__file__).parents[3] / "bench.toml", "full", (), "cuda")
    items = plan(config)
    paper = [item for item in items if item.case.encoder == "shape:tinybert-6-768" and item.case.precision == "bf16"]
    assert {(i.case.batch_size, i.case.text_length, i.case.item_repetition_ratio, str(i.line)) for i in paper} >= {
        (batch, text, ratio, line)
        for batch in (16, 32, 64)
        for text in (32, 128)
        for ratio in (1, 2, 4, 8, 16)
        for line in ("e2e (fast)", "e2e_unique (fast)", "single_step (fast)", "multi_step N=16 (fast)")
    }
    assert any(item.case.workload == "movielens" and item.case.encoder == "minilm" for item in items)


@pytest.mark.parametrize("method", method_settings.method_names())
def test_settings_read_from_the_source_are_those_of_the_class(method):
    """A method whose `Settings` the reader can't find would lose its table and its accumulation steps."""
    settings = methods.method_class(method).Settings
    assert list(method_settings.setting_types(method)) == [field.name for field in fields(settings)]
