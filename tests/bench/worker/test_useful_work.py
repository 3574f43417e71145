"""What a step's work is worth beside the measured matrix rate: counted for each method as it works, or told why not."""

from functools import cache

import pytest
import torch

import bench.worker.afterwards
from bench import registry
from bench.build.assembly import build
from bench.configuration.sweep import MethodLine, WorkItem
from bench.measure.flops import EncoderOperations, cf_flops
from bench.methods import PACKAGES, Unavailable
from bench.processes.messages import Job
from bench.results.analysis.summary import frames
from bench.worker.afterwards import NOT_COUNTED, useful_work
from bench.worker.measurement import measure
from gram_core.batch import every_slot, unique_items
from tests.bench._small_runs import CASE, config, item

METHODS = [name for package in PACKAGES for name in registry.names(package)]
SETTINGS = {"cached_layers": {"trained_layers": 1}}
ALL_SLOTS = {
    "e2e",
    "gradient_cache",
    "activation_checkpointing",
    "sentence_transformers",
    "sentence_transformers_plain",
}
UNIQUE = {"e2e_unique", "single_step", "gradient_cache_unique"}


def stepped(name, steps=4, **settings):
    line = MethodLine(name, "eager", 2 if name in ("multi_step", "pseudo_target_regression") else None)
    try:
        built = build(config(SETTINGS), WorkItem(CASE, line), torch.device("cpu"))
    except Unavailable as missing:
        pytest.skip(str(missing))
    batches = [built.workload.batches(step) for step in range(steps)]
    for batch in batches:
        built.method.step(batch)
    return built, batches


@cache
def of_tiny():
    """What counts the operations of the encoder of every case here."""
    return EncoderOperations(stepped("e2e", steps=0)[0].training.encoder, backward=True)


def mean_flops(built, batches, select):
    """Forward and backward of every selected text, and the CF module's."""
    lengths = built.workload.table.lengths
    passes = sum(of_tiny().of(lengths[select(batch).items]) for batch in batches)
    return passes / len(batches) + cf_flops(built.training, batches[0])


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_work_is_counted(name):
    """Useful is what end-to-end training on the same texts needs: nothing computed again, nothing left out."""
    built, batches = stepped(name)
    columns, untold = useful_work(built, batches)
    assert untold == {}
    assert columns["matrix_flops_per_s"] > 1e8
    if name in ALL_SLOTS:
        assert columns["useful_flops"] == pytest.approx(mean_flops(built, batches, every_slot))
    elif name in UNIQUE:
        assert columns["useful_flops"] == pytest.approx(mean_flops(built, batches, unique_items))
    elif name == "ids_only":
        assert columns["useful_flops"] == cf_flops(built.training, batches[0])
    else:
        assert 0 < columns["useful_flops"] < mean_flops(built, batches, every_slot)


def test_cached_layers_count_lower_layers_forwards_once_and_upper_ones_both_ways():
    """By hand: half of a forward pass of two layers for new items; of all items the other half, and its backward."""
    built, batches = stepped("cached_layers")
    encoder, lengths = built.training.encoder, built.workload.table.lengths
    forward = EncoderOperations(encoder.model)
    seen, expected = set(), 0
    for batch in batches:
        items = unique_items(batch).items
        new = torch.tensor([number for number in items.tolist() if number not in seen])
        seen |= set(items.tolist())
        tokens, width = int(lengths[items].sum()), encoder.width
        first_products = 3 * 2 * width * width * tokens  # their input asks for no gradient
        upper = forward.of(lengths[items]) / 2
        expected += 3 * upper - first_products + forward.of(lengths[new]) / 2
    columns, _ = useful_work(built, batches)
    cf = cf_flops(built.training, batches[0])
    assert columns["useful_flops"] == pytest.approx(expected / len(batches) + cf, rel=1e-9)
    assert len(new) < len(items), "some items came again"


def test_what_cannot_be_counted_is_told_and_costs_no_measurement(monkeypatch):
    built, batches = stepped("e2e")
    columns, untold = useful_work(built, batches[:0])
    assert columns == {}
    assert "error" in untold[NOT_COUNTED].lower()

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench.worker.afterwards, "useful_flops", out_of_memory)
    record = measure(Job(config(), item("e2e")), lambda _: None)
    assert record["outcome"] == "ok"
    assert record["useful_flops"] is None
    assert record["matrix_flops_per_s"] is None
    assert record["detail"][NOT_COUNTED] == "OutOfMemoryError: CUDA out of memory"


def test_a_record_tells_of_both_and_a_summary_of_their_ratio():
    from bench.results.schema import Record

    record = Record.model_validate(measure(Job(config(), item("single_step")), lambda _: None))
    later = Record.model_validate(measure(Job(config(), item("single_step", block=1)), lambda _: None))
    assert later.useful_flops is later.matrix_flops_per_s is None, "the first block tells it for all"
    (row,) = frames([record, later]).summary.to_dict("records")
    assert row["mfu"] == pytest.approx(record.useful_flops / row["median_s"] / record.matrix_flops_per_s)
    assert 0 < row["mfu"] < 1
    without = record.model_copy(update={"matrix_flops_per_s": None})
    assert frames([without]).summary["mfu"].isna().all(), "an unknown rate is no rate"
