"""Micro-benchmarks of what a step does around the encoder: deduplication, packing, gathering's backward pass.

B users x S slots of which U items are unique, d width: the committed sweep's middle case.
"""

import pytest
import torch
from torch.nn import functional

from gram_core.batch import Batch, ItemTable, unique_items
from gram_core.kernels.segments import gather_rows
from gram_core.packing import pack, readers

B, S, RATIO, D = 32, 55, 4, 768
BLOCK = 128
SHORT = {"min_rounds": 10, "max_time": 0.3, "warmup": True, "warmup_iterations": 3}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture
def batch():
    torch.manual_seed(0)
    unique = B * S // RATIO
    items = torch.randint(10_000, (unique,))[torch.arange(B * S) % unique][torch.randperm(B * S)].reshape(B, S)
    return Batch(items, torch.ones(B, S, dtype=torch.bool), torch.zeros(B, dtype=torch.int64), S - 5)


@pytest.fixture
def table():
    torch.manual_seed(0)
    lengths = torch.randint(8, 33, (10_000,))
    return ItemTable(torch.randint(1000, (int(lengths.sum()),)), torch.cat([torch.zeros(1), lengths.cumsum(0)]).long())


@pytest.mark.benchmark(group="deduplication", **SHORT)
def test_unique_items(benchmark, batch):
    selection = benchmark(unique_items, batch)
    assert len(selection.items) <= B * S // RATIO


@pytest.mark.benchmark(group="packing", **SHORT)
def test_reading_texts(benchmark, batch, table):
    items = unique_items(batch).items
    assert len(benchmark(table.texts, items)) == len(items)


@pytest.mark.benchmark(group="packing", **SHORT)
def test_packing_texts(benchmark, batch, table):
    texts = table.texts(unique_items(batch).items)
    packed = benchmark(pack, texts, BLOCK, 0)
    assert torch.equal(packed.tokens, texts.tokens.int())


@pytest.mark.benchmark(group="packing", **SHORT)
def test_inverting_slots(benchmark, batch):
    selection = unique_items(batch)
    found = benchmark(readers, selection.slot_rows, len(selection.items))
    assert int(found.offsets[-1]) == B * S


def backward(gathered, rows, device):
    """A function that back-propagates ones through `gathered` to `rows`, and is done when the device is."""
    ones = torch.ones_like(gathered)

    def run():
        (gradient,) = torch.autograd.grad(gathered, rows, ones, retain_graph=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return gradient

    return run


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["segments", "embedding", "index"])
@pytest.mark.benchmark(group="gather-backward", **SHORT)
def test_gather_backward(benchmark, batch, kind, device):
    """Ours, without atomics, beside torch's two."""
    selection = unique_items(batch)
    rows = torch.randn(len(selection.items), D, device=device, requires_grad=True)
    index = readers(selection.slot_rows, len(rows))
    slot_rows, slots, offsets = (each.to(device) for each in (index.slot_rows, index.slots, index.offsets))
    gathered = {
        "segments": lambda: gather_rows(rows, slot_rows, slots, offsets),
        "embedding": lambda: functional.embedding(slot_rows, rows),
        "index": lambda: rows[slot_rows],
    }[kind]()
    gradient = benchmark(backward(gathered, rows, device))
    assert torch.allclose(gradient[:, 0].cpu(), torch.bincount(index.slot_rows).float())
