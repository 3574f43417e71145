"""With run.deterministic, the same run twice gives the same bits, in every engine and method."""

from __future__ import annotations

import pytest
import torch

from bench.build.assembly import build, resolve_device
from bench.configuration.config import load
from bench.configuration.sweep import plan

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("engine", ["eager", "fast"])
def test_the_same_steps_twice_leave_the_same_bits(device: str, engine: str) -> None:
    changes = ["run.deterministic=true", "sweep.workload=synthetic", "sweep.encoder=shape:tiny", "sweep.batch_size=6"]
    changes += ["sweep.history_length=6", "sweep.text_length=12", "sweep.item_repetition_ratio=2"]
    changes += [f"sweep.engine={engine}", "sweep.accumulation_steps=2", "sweep.precision=float32"]
    config = load(None, "full", changes, device)
    try:
        for item in plan(config):
            assert torch.equal(_trained(config, item), _trained(config, item)), item.line
    finally:
        torch.use_deterministic_algorithms(False)


def _trained(config, item) -> torch.Tensor:
    built = build(config, item, resolve_device(config.run.device))
    assert torch.are_deterministic_algorithms_enabled()
    for number in range(4):
        built.method.step(built.workload.batches(number))
    built.method.finish()
    return torch.cat([p.detach().flatten().cpu() for p in built.training.encoder.parameters()])
