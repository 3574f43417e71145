"""What a capture must be kept from: Python's collector, which may destroy another graph at any moment."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from gram_core.engines._captured import GraphPool, collection_paused


class Cycle:
    """Freed by the collector alone."""

    def __init__(self, held: object = None):
        self.held, self.own = held, self


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Collects at every few allocations."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*thresholds)


def collected(cycle: weakref.ref[Cycle]) -> bool:
    """Whether the collector takes a cycle that nothing holds, while many objects are made."""
    made: list[list[int]] = []
    while len(made) < 1000 and cycle() is not None:
        made.append([len(made)])
    return cycle() is None


@pytest.mark.usefixtures("eager_collector")
def test_no_cycle_is_collected_within() -> None:
    with collection_paused():
        cycle = weakref.ref(Cycle())
        assert not collected(cycle)
    assert gc.isenabled()
    assert collected(cycle)


def test_the_collector_is_left_as_it_was() -> None:
    with pytest.raises(KeyError), collection_paused():
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("eager_collector")
def test_a_graph_that_a_cycle_holds_outlives_the_capture_of_another() -> None:
    pool, rows = GraphPool(torch.device("cuda")), torch.ones(8, device="cuda")
    other, _ = pool.capture(lambda: (rows + 1,))
    held = [other]
    del other

    def function() -> tuple[torch.Tensor]:
        assert not collected(weakref.ref(Cycle(held.pop())))
        return (rows * 3,)

    graph, (output,) = pool.capture(function)
    graph.replay()
    assert torch.equal(output, torch.full_like(output, 3.0))
