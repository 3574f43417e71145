"""What is read off an encoder: operations and parameters, and what autograd keeps, foreseen from two layers."""

from __future__ import annotations

import pytest
import torch

from bench.build.assembly import build_workload, cf_module_class
from bench.configuration.config import load
from bench.configuration.sweep import plan
from bench.measure.flops import encoder_flops
from bench.planning import shapes
from tests.bench import _encoder_folders


def case_of(encoder: str, *changes: str):
    sizes = (
        "sweep.batch_size=4",
        "sweep.item_repetition_ratio=2",
        "sweep.history_length=4",
        "sweep.text_length=12",
        "sweep.layers=all",
    )
    config = load(None, "quick", (f"sweep.encoder={encoder}", "sweep.workload=synthetic", *sizes, *changes), "cpu")
    return config, plan(config)[0].case


def shape_of(config, case, engine):
    loaded = shapes.load(config, case)
    workload = build_workload(config, case, loaded, cf_module_class(case.cf_module).task)
    return shapes.with_kept(shapes.encoder_shape(config, case, engine, loaded), config, case, workload.table), workload


def test_sizes_are_the_models_own() -> None:
    config, case = case_of("shape:tiny")
    shape, _ = shape_of(config, case, "eager")
    loaded = shapes.load(config, case, "cpu")
    assert shape.parameters == sum(each.numel() for each in loaded.model.parameters())
    lengths = torch.tensor([3, 9, 12])
    told = shape.token_flops * 24 + shape.square_flops * float((lengths * lengths).sum())
    assert told == pytest.approx(encoder_flops(loaded.model, lengths))


@pytest.mark.parametrize(
    ("family", "engine", "tier"),
    [("bert", "eager", "padded"), ("bert", "fast", "packed"), ("modernbert", "fast", "general")],
)
def test_what_all_layers_keep_follows_from_two(family, engine, tier, tmp_path) -> None:
    """Held against the whole encoder on other texts than those that it was read off."""
    _encoder_folders.save(tmp_path, family, num_hidden_layers=5)
    config, case = case_of(f"path:{tmp_path}")
    shape, workload = shape_of(config, case, engine)
    assert shape.tier == tier
    whole = shapes._on_host(config, case, tier, shape.layers)
    texts = workload.table.texts(torch.arange(40, 72))
    tokens = float(shapes.computed(tier, "max_length", case.text_length, texts.lengths).sum())
    kept = shapes._kept_bytes(whole, texts, case.precision)
    assert shape.kept_bytes * tokens == pytest.approx(kept, rel=0.06)
    assert 0 < shape.layer_bytes < shape.kept_bytes


def test_kernels_that_a_gpu_lacks_are_known_without_one() -> None:
    config, case = case_of("shape:tiny")
    cuda = config.model_copy(update={"run": config.run.model_copy(update={"device": "cuda"})})
    assert shapes.encoder_shape(cuda, case, "fast", shapes.load(cuda, case)).tier == "packed"
    wide, case = case_of("shape:tiny", "sweep.precision=float64")
    cuda = wide.model_copy(update={"run": wide.run.model_copy(update={"device": "cuda"})})
    assert shapes.encoder_shape(cuda, case, "fast", shapes.load(cuda, case)).tier == "general"


@pytest.mark.parametrize("cf_module", ["nrms", "dkt", "sakt"])
def test_a_cf_modules_users_keep_alike(cf_module) -> None:
    config, case = case_of("shape:tiny", f"sweep.cf_module={cf_module}")
    shape = shapes.cf_shape(config, case, 32)
    assert shape.parameters > 0
    assert shape.user_bytes > 4 * 32 * 4 * 2, "more than the slots' encodings alone"


def test_texts_longer_than_the_encoders_positions_are_refused() -> None:
    config, case = case_of("shape:tiny", "sweep.text_length=4000")
    with pytest.raises(ValueError, match="text_length 4000 is more than the 512 tokens of shape:tiny"):
        shapes.load(config, case)
