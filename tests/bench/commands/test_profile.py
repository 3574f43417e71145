"""What a profile says: phases and kernels of a trace, operations of an encoder, the lines of a case."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from bench.cli import app
from bench.commands.profiling import waiting
from bench.configuration.config import load
from bench.configuration.sweep import lines_of_case, plan
from bench.errors import ConfigError
from bench.measure.flops import encoder_flops
from bench.measure.trace import read_trace


def event(cat: str, name: str, ts: float, dur: float, **args: object) -> dict[str, object]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 1, "args": args}


def trace_file(tmp_path, events: list[dict[str, object]]):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def test_kernels_belong_to_the_phase_that_launched_them_not_to_the_one_they_run_in(tmp_path) -> None:
    """A kernel runs long after its launch: going by its own time would give it to a later phase."""
    trace = read_trace(
        trace_file(
            tmp_path,
            [
                event("user_annotation", "gram_core.ce_forward", 0, 10),
                event("user_annotation", "gram_core.cf", 20, 30),
                event("user_annotation", "gram_core.host", 25, 5),
                event("cuda_runtime", "cudaLaunchKernel", 5, 1, correlation=1),
                event("cuda_runtime", "cudaLaunchKernel", 27, 1, correlation=2),
                event("cuda_runtime", "cudaLaunchKernel", 40, 1, correlation=3),
                event("cuda_runtime", "cudaLaunchKernel", 15, 1, correlation=4),
                event("kernel", "gemm", 22, 100, correlation=1),
                event("gpu_memcpy", "copy", 130, 7, correlation=2),
                event("kernel", "gemm", 140, 50, correlation=3),
                event("kernel", "add", 185, 9, correlation=4),
            ],
        )
    )
    assert trace.phases_s == pytest.approx({"ce_forward": 100e-6, "host": 7e-6, "cf": 50e-6, "outside": 9e-6})
    assert trace.device_s == pytest.approx(161e-6), "two streams overlap in 5 microseconds"
    assert trace.idle_s == pytest.approx(11e-6), "from 122 to 130, and from 137 to 140"
    assert [(kernel.name, kernel.calls) for kernel in trace.kernels] == [("gemm", 2), ("add", 1), ("copy", 1)]


def test_without_a_device_phases_are_host_time_less_what_lies_within(tmp_path) -> None:
    trace = read_trace(
        trace_file(
            tmp_path,
            [
                event("user_annotation", "gram_core.cf", 0, 30),
                event("user_annotation", "gram_core.host", 5, 10),
                event("cpu_op", "aten::linear", 0, 20),
                event("cpu_op", "aten::addmm", 2, 15),
            ],
        )
    )
    assert trace.phases_s == pytest.approx({"cf": 20e-6, "host": 10e-6})
    assert trace.device_s is None
    assert trace.idle_s is None
    assert {kernel.name: kernel.seconds for kernel in trace.kernels} == pytest.approx(
        {"aten::addmm": 15e-6, "aten::linear": 5e-6}
    )


def test_falling_clocks_are_not_told_as_waiting() -> None:
    """Many steps of a busy device run at lower clocks than a few traced ones: what these leave of a step is no gap."""
    assert waiting(step_s=90e-3, device_s=85e-3, idle_s=0.8e-3, units=3, steps=3) == pytest.approx(0.4e-3)


def test_a_traced_host_that_launches_late_is_not_told_as_waiting() -> None:
    assert waiting(step_s=24e-3, device_s=20e-3, idle_s=33e-3, units=3, steps=3) == pytest.approx(4e-3)
    assert waiting(step_s=19e-3, device_s=20e-3, idle_s=33e-3, units=3, steps=3) == 0.0


@pytest.mark.parametrize("interval", [1, 4])
def test_waiting_between_intervals_is_told_whole(tmp_path, interval: int) -> None:
    """Three intervals have two gaps between them, and the third of them waits as long as the others."""
    kernels = [event("kernel", "gemm", 5000.0 * unit, 1000.0 * interval, correlation=unit) for unit in range(3)]
    trace = read_trace(trace_file(tmp_path, kernels))
    assert trace.idle_s is not None
    gap = 5e-3 - 1e-3 * interval
    found = waiting(5e-3 / interval, 1e-3, trace.idle_s, units=3, steps=3 * interval)
    assert found == pytest.approx(gap / interval)


def test_operations_are_what_torch_counts_on_unpadded_texts() -> None:
    config = BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, vocab_size=50,
        attn_implementation="eager",
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    ids = torch.randint(1, 50, (6, 10))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert encoder_flops(model, torch.full((6,), 10)) == counter.get_total_flops()


def test_a_case_is_chosen_by_number_or_axes() -> None:
    items = plan(load(None, "full", ["sweep.batch_size=[4,8]", "sweep.encoder=['shape:tiny']"], "cpu"))
    assert lines_of_case(items, None) == lines_of_case(items, "1")
    chosen = lines_of_case(items, "batch_size=8,item_repetition_ratio=1")
    assert {item.case.batch_size for item in chosen} == {8}
    assert len(chosen) == len({item.line for item in chosen}) > 1
    with pytest.raises(ConfigError, match="2 of the"):
        lines_of_case(items, "item_repetition_ratio=1")
    with pytest.raises(ConfigError, match="none of the"):
        lines_of_case(items, "99")
    with pytest.raises(ConfigError, match="colour is none of workload"):
        lines_of_case(items, "colour=red")


def test_the_command_prints_phases_and_floor_and_leaves_traces(tmp_path) -> None:
    changes = ["sweep.workload=synthetic", "sweep.encoder=shape:tiny", "sweep.batch_size=4", "sweep.history_length=4"]
    changes += ["sweep.text_length=8", "sweep.item_repetition_ratio=2", "sweep.method=single_step", "run.budget_s=0.2"]
    changes += ["sweep.engine=['eager','fast']", "sweep.precision=float32"]
    words = [word for change in changes for word in ("--set", change)]
    command = ["profile", "--config", "/dev/null", "--device", "cpu", *words, "--out", str(tmp_path / "p")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    for expected in ("single_step (eager)", "single_step (fast)", "ce_backward", "optimizer", "floor"):
        assert expected in done.stdout
    facts = json.loads((tmp_path / "p" / "profile.json").read_text())
    assert [line["line"] for line in facts["lines"]] == ["single_step (eager)", "single_step (fast)"]
    for line in facts["lines"]:
        assert set(line["phases_s"]) >= {"host", "ce_forward", "cf", "ce_backward", "optimizer"}
        assert sum(line["phases_s"].values()) > 0
        assert line["flops"] > 0
    assert len(list((tmp_path / "p").glob("*.trace.json"))) == 2
