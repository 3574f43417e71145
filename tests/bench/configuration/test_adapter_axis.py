"""`sweep.adapter`: the same encoder trained whole and through adapters of low rank, exactly in every engine."""

import json

import pytest
import torch

from bench.build.assembly import build
from bench.configuration.config import load
from bench.configuration.sweep import MethodLine, WorkItem, plan
from bench.errors import ConfigError
from bench.results.schema import Record
from bench.verify.report import verify
from gram_core.encoders.general import GeneralEncoder
from reports import words

peft = pytest.importorskip("peft")
CPU = torch.device("cpu")


def config(*changes, **sweep):
    axes = {
        "workload": ["synthetic"],
        "encoder": ["shape:tiny"],
        "layers": ["all"],
        "text_length": [8],
        "history_length": [4],
        "batch_size": [4],
        "item_repetition_ratio": [2],
        "part": [],
        "adapter": ["none", "lora"],
        "method": ["e2e", "single_step"],
        **sweep,
    }
    overrides = [f"sweep.{key}={json.dumps(value)}" for key, value in axes.items()]
    return load(None, "smoke", [*overrides, *changes], "cpu")


def test_a_sweep_has_every_case_with_and_without_adapters():
    cases = list(dict.fromkeys(item.case for item in plan(config())))
    assert [case.adapter for case in cases] == ["none", "lora"]
    assert "adapter" not in str(cases[0])
    assert "adapter=lora" in str(cases[1])
    assert cases[1].axes()["adapter"] == "lora"


@pytest.mark.parametrize("engine", ["eager", "fast"])
def test_adapters_alone_are_trained_and_move(engine):
    settings = config(
        "model.lora.rank=3", "model.lora.targets=['query', 'output.dense']", "run.measured_learning_rate=1e-3"
    )
    case = next(item.case for item in plan(settings) if item.case.adapter == "lora")
    built = build(settings, WorkItem(case, MethodLine("single_step", engine)), CPU)
    encoder = built.training.encoder
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    for step in range(2):
        built.method.step(built.workload.batches(step))
    moved = {name for name, parameter in encoder.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    layers, places = 2, 3
    assert len(moved) == 2 * layers * places  # query, and the output of attention and of the feed-forward part
    assert built.detail["trainable_parameters"] == sum(before[name].numel() for name in moved)
    assert "LoRA adapters of rank 3, alpha 32, on query, output.dense" in built.detail["encoder"]
    if engine == "fast":
        assert isinstance(built.encoder, GeneralEncoder)


def test_verify_holds_with_adapters_in_both_engines():
    report = verify(config(engine=["eager", "fast"]), "cpu")
    assert {"adapter=lora" in row.case for row in report.rows} == {True, False}
    assert report.passed, [row for row in report.rows if not row.passed]


def test_targets_that_the_model_does_not_have_are_one_sentence():
    settings = config("model.lora.targets=['q_proj']")
    case = next(item.case for item in plan(settings) if item.case.adapter == "lora")
    with pytest.raises(ValueError, match=r"with adapters: model\.lora\.targets do not fit a bert"):
        build(settings, WorkItem(case, MethodLine("e2e", "eager")), CPU)


def test_adapters_without_their_library_are_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("bench.configuration.checks.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'adapter.*needs the package peft: pip install "gram-bench\[lora\]"'):
        config()
    config(adapter=["none"])


def test_records_of_before_had_no_adapters():
    found = Record(
        case={"workload": "synthetic"}, method="e2e", engine="eager", block=0, exactness="exact", outcome="ok"
    )
    assert found.case["adapter"] == "none"
    assert words.encoder({"encoder": "minilm", "layers": None, "adapter": "lora"}) == "minilm with lora"
    assert words.encoder({"encoder": "minilm", "layers": None, "adapter": "none"}) == "minilm"
