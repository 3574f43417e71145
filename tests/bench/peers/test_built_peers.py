"""Every peer as a run builds it: on both engines, on the processor and, where there is one, on the GPU."""

import pytest
import torch

import bench.build.assembly
from bench import registry
from bench.build.assembly import build
from bench.configuration.case import Case
from bench.configuration.sweep import MethodLine, WorkItem
from bench.measure.counts import encoder_counts
from bench.measure.flops import forward_only
from bench.methods import PACKAGES, Unavailable, that_hold
from gram_core.engines._captured_cf import CapturingTraining
from tests.bench._small_runs import CASE, config

PEERS = registry.names(PACKAGES[1])
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SETTINGS = {"cached_layers": {"trained_layers": 1}}
"""For an encoder of two layers."""
PLACES = [
    ("cpu", "eager", "float32"),
    ("cpu", "fast", "float32"),
    pytest.param("cuda", "eager", "bf16", marks=cuda),
    pytest.param("cuda", "fast", "bf16", marks=cuda),
]


@pytest.mark.parametrize(("device", "engine", "precision"), PLACES)
@pytest.mark.parametrize("name", PEERS)
def test_it_steps_and_its_counts_are_of_what_it_encoded(name, device, engine, precision):
    """Losses stay finite, caches lie where the encodings are, and no more is counted than slots and passes have."""
    case = Case(**{**CASE.axes(), "precision": precision})
    line = MethodLine(name, engine, 2 if name == "pseudo_target_regression" else None)
    try:
        built = build(config(SETTINGS, device=device), WorkItem(case, line), torch.device(device))
    except Unavailable as missing:
        pytest.skip(str(missing))
    batches = [built.workload.batches(step) for step in range(4)]
    losses = torch.stack([built.method.step(batch) for batch in batches])
    built.method.finish()
    assert bool(torch.isfinite(losses).all())
    counts = encoder_counts(batches, built.workload.table, built.encoder, built.method)
    slots = sum(int(built.workload.table.lengths[batch.items[batch.mask]].sum()) for batch in batches) / len(batches)
    assert 0 <= counts["encoded_tokens"] <= 2 * slots
    assert (counts["encoded_tokens"] == 0) == (name == "ids_only")
    assert counts["padded_tokens"] >= counts["encoded_tokens"]
    hold = ["everywhere", "measured"]
    hold += ["cpu"] if device == "cpu" else ["against graphs"] if engine == "fast" else []
    told = built.detail.get("handicaps", [])
    assert told == [handicap.sentence for handicap in built.method.handicaps if handicap.only in hold]


def test_a_training_tells_only_what_holds_of_trainings():
    """A sentence about short measurements, or an engine that was not used, would be read as one about this run."""
    line = MethodLine("frozen", "eager", None)
    of_measurement, of_training = (
        build(config(), WorkItem(CASE, line), torch.device("cpu"), training_seed=seed).detail for seed in (None, 0)
    )
    assert ["a short measurement" in sentence for sentence in of_measurement["handicaps"]] == [True]
    assert "handicaps" not in of_training


@pytest.mark.parametrize("name", ["frozen", "ids_only", "gradient_cache", "activation_checkpointing", "speedyfeed"])
def test_what_graphs_explain_is_told_where_there_are_graphs(name, monkeypatch):
    """An engine decides on whether ours are replayed, which the device and the engine's name alone do not tell."""
    line = MethodLine(name, "fast", None)

    def told() -> bool:
        detail = build(config(), WorkItem(CASE, line), torch.device("cpu")).detail
        return any("replayed from" in sentence for sentence in detail.get("handicaps", ()))

    assert not told(), "on a processor nothing is captured"
    monkeypatch.setattr(
        bench.build.assembly,
        "build_method",
        lambda chosen, training, settings, engine: chosen(CapturingTraining.over(training), settings),
    )
    assert told()


def test_a_plain_sentence_of_a_method_of_ones_own_holds_everywhere():
    assert that_hold(["slow"], captured=False, trained=True, on_cpu=False) == ["slow"]


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [
        ("e2e", 2, [False] * 2),
        ("frozen", 2, [True] * 2),
        ("ids_only", 2, []),
        ("multi_step", 6, [True, True, True, False] * 2),
        ("pseudo_target_regression", 6, [True, True, True, False] * 2),
    ],
)
def test_passes_without_a_backward_are_counted_as_such(name, steps, expected):
    """Operations of a backward pass that never runs would flatter a method's use of the device."""
    line = MethodLine(name, "eager", 3 if steps == 6 else None)
    built = build(config(), WorkItem(CASE, line), torch.device("cpu"))
    batches = [built.workload.batches(step) for step in range(steps)]
    for batch in batches:
        built.method.step(batch)
    passes = built.method.encoded_items(batches)
    assert forward_only(built.method, len(passes), steps) == expected
