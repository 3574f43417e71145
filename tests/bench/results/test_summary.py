"""Derived numbers: computed from the right pairs, missing where a pair is missing."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest

from bench.results.analysis.summary import ENGINE_COLUMNS, RECORD_COLUMNS, SUMMARY_COLUMNS, frames
from bench.results.analysis.training_summary import frames as training_frames
from bench.results.detail import TrainingDetail
from bench.results.schema import PeakMemory, Record, Throughput
from tests.reports import _trainings

CASE = {
    "workload": "synthetic",
    "encoder": "minilm",
    "layers": None,
    "batch_size": 32,
    "history_length": 50,
    "text_length": 32,
    "item_repetition_ratio": 4.0,
    "precision": "float32",
}


def record(method: str, seconds: float | tuple[float, ...] = 0.1, *, case: dict | None = None, **changes) -> Record:
    samples = seconds if isinstance(seconds, tuple) else (seconds,)
    values = {
        "case": CASE | (case or {}),
        "method": method,
        "engine": "eager",
        "block": 0,
        "exactness": "exact",
        "outcome": "ok",
        "samples_s": samples,
    }
    return Record(**(values | changes))


def failed(method: str, outcome: str = "oom", **changes) -> Record:
    return record(method, (), outcome=outcome, reason=f"{outcome}: a sentence", **changes)


def row(records, label="single_step", **where):
    frame = frames(records).summary
    frame = frame[frame["label"] == label]
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_speed_up_is_e2e_time_over_method_time():
    result = row([record("e2e", 0.4), record("e2e_unique", 0.2), record("single_step", 0.1)])
    assert result["speed_up"] == pytest.approx(4)
    assert result["speed_up_unique"] == pytest.approx(2)
    assert result["median_s"] == 0.1


def test_the_median_of_the_samples_counts_and_not_their_mean():
    result = row([record("e2e", (0.3, 0.4, 9.0)), record("single_step", (0.1, 0.1, 0.9))])
    assert result["speed_up"] == pytest.approx(4)


def test_speed_up_is_the_mean_over_blocks_with_its_t_interval():
    """Blocks are paired: a slow hour slows both sides of its block and cancels out."""
    drift = {0: 1.0, 1: 10.0, 2: 3.0}
    gains = {0: 2.0, 1: 4.0, 2: 3.0}
    records = [
        each
        for block, slow in drift.items()
        for each in (record("e2e", slow, block=block), record("single_step", slow / gains[block], block=block))
    ]
    result = row(records)
    logs = [math.log(gain) for gain in gains.values()]
    half = 4.302653 * stdev(logs) / math.sqrt(3)  # the 97.5 % point of t on 2 degrees of freedom
    assert result["speed_up"] == pytest.approx(math.exp(fmean(logs)))
    assert result["speed_up_low"] == pytest.approx(math.exp(fmean(logs) - half))
    assert result["speed_up_high"] == pytest.approx(math.exp(fmean(logs) + half))
    assert result["speed_up_half_width"] == pytest.approx(math.exp(half) - 1)
    assert result["blocks"] == result["ok_blocks"] == result["speed_up_blocks"] == 3
    assert (result["min_s"], result["max_s"]) == (pytest.approx(0.5), pytest.approx(2.5))


def test_one_block_gives_a_ratio_without_an_interval():
    """An interval of no width would claim to know what one block cannot tell."""
    result = row([record("e2e", (0.3, 0.4, 0.5)), record("single_step", 0.1)])
    assert result["speed_up"] == pytest.approx(4)
    assert math.isnan(result["speed_up_low"])
    assert math.isnan(result["speed_up_half_width"])
    assert result["speed_up_notes"] == ""


def test_interleaved_samples_are_compared_round_by_round():
    """The machine slows to a third after the third round; the pairs do not notice, the medians would."""
    slow = [1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0]
    turns = {"schedule": "interleaved", "rounds": tuple(range(7))}
    fewer = {"schedule": "interleaved", "rounds": tuple(range(6))}
    records = [
        record("e2e", tuple(0.4 * each for each in slow), **turns),
        record("single_step", tuple(0.1 * each for each in slow[:6]), **fewer),
    ]
    assert row(records)["speed_up"] == pytest.approx(4)


def test_the_canary_is_a_column_and_no_line():
    """A second e2e process must not count as blocks, samples or the reference of anything."""
    lines = [
        record(method, seconds * wobble, block=block, replica=replica)
        for block, wobble in enumerate((1.0, 1.1, 0.9))
        for method, seconds, replica in (("e2e", 0.4, 0), ("e2e", 0.38 + 0.01 * block, 1), ("single_step", 0.1, 0))
    ]
    result = row(lines)
    assert result["speed_up"] == pytest.approx(4)
    assert result["canary"] == pytest.approx((0.4**3 / (0.38 * 0.39 * 0.40)) ** (1 / 3))
    assert result["canary_low"] < 1 < result["canary_high"]
    assert len(frames(lines).summary) == 2
    assert len(frames(lines).records) == 6
    without = row([each for each in lines if each.replica == 0])
    assert math.isnan(without["canary"])


def test_two_blocks_are_joined_by_the_geometric_mean():
    records = [
        record(m, t, block=b) for b, (x, y) in enumerate([(1, 1), (4, 1)]) for m, t in (("e2e", x), ("single_step", y))
    ]
    assert row(records)["speed_up"] == pytest.approx(2)


def test_only_blocks_that_hold_both_sides_are_paired():
    records = [record("e2e", 0.4), record("single_step", 0.1), record("single_step", 0.001, block=1)]
    assert row(records)["speed_up"] == pytest.approx(4)
    apart = [record("e2e", 0.4, block=0), record("single_step", 0.1, block=1)]
    assert math.isnan(row(apart)["speed_up"])


@pytest.mark.parametrize(
    "change",
    [
        *({"case": {axis: "other" if isinstance(value, str) else 7}} for axis, value in CASE.items()),
        *({"engine": "fast"}, {"dropout": "shared"}, {"padding": "longest"}, {"optimizer": "sgd"}),
    ],
    ids=str,
)
def test_no_speed_up_across_cases_and_settings(change):
    """A method never gets a fast engine against an eager e2e in one number."""
    result = row([record("e2e", 0.4, **change), record("single_step", 0.1)])
    assert math.isnan(result["speed_up"])
    assert result["reference_outcome"] == "absent"


@pytest.mark.parametrize("outcome", ["oom", "timeout", "error", "skipped"])
def test_what_was_not_measured_stays_with_its_reason(outcome):
    result = row([record("e2e"), failed("single_step", outcome)])
    assert result["outcome"] == outcome
    assert result["reason"] == f"{outcome}: a sentence"
    assert math.isnan(result["speed_up"])
    assert math.isnan(result["median_s"])
    assert result["ok_blocks"] == 0


def test_a_reference_that_ran_out_of_memory_is_named():
    result = row([failed("e2e"), record("e2e_unique", 0.2), record("single_step", 0.1)])
    assert math.isnan(result["speed_up"])
    assert result["reference_outcome"] == "oom"
    assert result["speed_up_unique"] == pytest.approx(2)


def test_a_line_with_one_good_block_is_measured_and_its_failure_not_hidden():
    result = row([record("e2e", 0.4), record("single_step", 0.1), failed("single_step", "error", block=1)])
    assert result["outcome"] == "ok"
    assert (result["blocks"], result["ok_blocks"]) == (2, 1)
    assert result["reason"] == "error: a sentence"
    assert result["speed_up"] == pytest.approx(4)


def test_accumulation_steps_are_lines_of_their_own():
    records = [record("e2e", 0.4), *(record("multi_step", 0.4 / n, accumulation_steps=n) for n in (2, 8))]
    records.append(record("multi_step", 0.1, accumulation_steps="0.5E"))
    assert row(records, "multi_step N=2")["speed_up"] == pytest.approx(2)
    assert row(records, "multi_step N=8")["speed_up"] == pytest.approx(8)
    assert row(records, "multi_step N=0.5E")["speed_up"] == pytest.approx(4)


def test_memory_compares_equal_kinds_only():
    gpu = PeakMemory(allocated=100, reserved=150, process=200)
    cpu = PeakMemory(process=50)
    both = row(
        [record("e2e", peak_memory_bytes=gpu), record("single_step", peak_memory_bytes=PeakMemory(allocated=25))]
    )
    assert both["memory_ratio"] == 0.25
    assert both["memory_kind"] == "allocated"
    mixed = row([record("e2e", peak_memory_bytes=gpu), record("single_step", peak_memory_bytes=cpu)])
    assert math.isnan(mixed["memory_ratio"])
    assert mixed["memory_kind"] == "process"
    none = row([record("e2e"), record("single_step")])
    assert math.isnan(none["memory_bytes"])
    assert none["memory_kind"] is None


def test_engine_and_method_shares_multiply_to_the_whole():
    records = [
        record("e2e", 1.0),
        record("single_step", 0.5),
        record("e2e", 0.4, engine="fast"),
        record("single_step", 0.1, engine="fast"),
    ]
    engines = frames(records).engines
    line = engines[engines["label"] == "single_step"].iloc[0]
    assert line["engine_share"] == pytest.approx(2.5)
    assert line["method_share"] == pytest.approx(4)
    assert line["total"] == pytest.approx(10)
    assert set(engines["engine"]) == {"fast"}


def test_one_engine_has_no_shares():
    assert frames([record("e2e"), record("single_step")]).engines.empty


def test_axes_keep_their_types_and_none():
    result = row([record("e2e"), record("single_step")])
    assert result["batch_size"] == 32
    assert isinstance(result["batch_size"], int)
    assert result["layers"] is None
    assert result["asked_repetition_ratio"] == 4.0


def test_throughput_and_ratio_are_carried():
    rates = Throughput(users=10, item_slots=550, real_tokens=9000)
    result = row([record("single_step", throughput_per_s=rates, item_repetition_ratio=3.9)])
    assert result["users_per_s"] == 10
    assert result["real_tokens_per_s"] == 9000
    assert result["item_repetition_ratio"] == 3.9


@pytest.mark.parametrize(
    ("encoder", "detail", "weights"),
    [
        ("minilm", {"weights": "real"}, "real"),
        ("minilm", {"weights": "random"}, "random"),
        ("shape:bert-base", {}, "random"),
        ("minilm", {}, "real"),
    ],
)
def test_random_weights_are_told_apart(encoder, detail, weights):
    assert row([record("single_step", case={"encoder": encoder}, detail=detail)])["weights"] == weights


@pytest.mark.parametrize(
    ("workload", "detail", "log"),
    [
        ("movielens", {"log": "real"}, "real"),
        ("brand_new", {"log": "synthetic"}, "synthetic"),
        ("shape:toeic", {}, "synthetic"),
        ("synthetic", {}, "synthetic"),
    ],
)
def test_a_log_drawn_at_random_is_called_so(workload, detail, log):
    """Measured or trained on: what the record says of its log, or the workload's name where it failed before."""
    measured = record("single_step", case={"workload": workload}, detail=detail)
    assert row([measured])["log"] == log
    ended = [
        point.model_copy(update={"case": {**point.case, "workload": workload}, "detail": TrainingDetail(**detail)})
        for point in _trainings.course(_trainings.LINES[0], 0)
    ]
    trained = training_frames(ended)
    assert set(trained.seeds["log"]) == set(trained.summary["log"]) == {log}


def test_nothing_gives_empty_frames_with_all_columns():
    empty = frames([])
    assert tuple(empty.records.columns) == RECORD_COLUMNS
    assert tuple(empty.summary.columns) == SUMMARY_COLUMNS
    assert tuple(empty.engines.columns) == ENGINE_COLUMNS
    assert empty.summary.empty


def test_only_filters_all_frames_and_none_matches_missing():
    both = frames([record("e2e"), record("e2e", case={"layers": 2}), record("e2e", case={"layers": 2}, engine="fast")])
    assert len(both.only({"layers": None}).summary) == 1
    assert len(both.only({"layers": 2}).records) == 2
    assert len(both.only({"layers": 2, "engine": "fast"}).engines) == 1
