"""What a capture must be kept from: Python's collector, which may destroy another graph at any moment."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from gram_core.engines import _captured
from gram_core.engines._captured import CapturedFunction, GraphPool, Inputs, collection_paused


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


class Sums:
    """A function that is captured: of its input, and of what it has been called with before. Counts its own runs."""

    def __init__(self, device: str) -> None:
        self.runs = 0
        self._total = torch.zeros((), dtype=torch.float64, device=device)

    def __call__(self, inputs: Inputs) -> tuple[torch.Tensor]:
        self.runs += 1
        squares = inputs["numbers"].double() ** 2
        self._total.add_(squares.sum())
        return (self._total + squares,)


class LaunchedGraph:
    """Stands for a graph where there is no GPU: runs the function when it is replayed, into the same outputs."""

    def __init__(self, function: Callable[[], tuple[torch.Tensor]]) -> None:
        self._function = function
        self.outputs = (torch.empty(0, dtype=torch.float64),)

    def replay(self) -> None:
        for place, output in zip(self.outputs, self._function(), strict=True):
            place.resize_as_(output).copy_(output)


SIZES = 1000, 1000, 1000, 4000, 4000, 1000, 1000, 4000, 9000, 1000


@pytest.fixture
def launched_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of a megabyte on a device of a megabyte that is none."""

    def capture(pool: GraphPool, function: Callable[[], tuple[torch.Tensor]]) -> tuple[Any, tuple[torch.Tensor]]:
        pool._graph_bytes += 2**20
        graph = LaunchedGraph(function)
        return graph, graph.outputs

    monkeypatch.setattr(GraphPool, "capture", capture)
    monkeypatch.setattr(_captured, "_device_bytes", lambda device: 2**20)
    for name in ("synchronize", "empty_cache", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)


@pytest.mark.usefixtures("launched_graphs")
@pytest.mark.parametrize(("gives_way", "much", "captured"), [(True, 0.5, 4), (True, 8.0, 2), (False, 0.5, 2)])
def test_large_graphs_make_room_for_a_size_that_is_new(
    gives_way: bool, much: float, captured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_captured, "MUCH", much)
    device = torch.device("cpu")
    function = CapturedFunction(Sums("cpu"), device, pool=GraphPool(device, gives_way=gives_way))
    function._captures = True
    plain = Sums("cpu")
    for size in SIZES:
        numbers = torch.arange(size, dtype=torch.float32)
        assert torch.equal(function({"numbers": numbers})[0], plain({"numbers": numbers})[0])
    assert (function.counts.uncaptured, function.counts.captured) == (3, captured)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("much", "captured"), [(0.0, 4), (1.0, 2)])
def test_graphs_that_made_room_are_captured_again(much: float, captured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_captured, "MUCH", much)
    function, plain = CapturedFunction(Sums("cuda"), torch.device("cuda")), Sums("cuda")
    for size in SIZES:
        numbers = torch.arange(size, dtype=torch.float32)
        assert torch.equal(function({"numbers": numbers})[0], plain({"numbers": numbers.cuda()})[0])
    assert (function.counts.uncaptured, function.counts.captured) == (3, captured)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_new_size_takes_no_memory_beside_large_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_captured, "MUCH", 2**26 / torch.cuda.get_device_properties(0).total_memory)
    peaks = {}
    for gives_way in (True, False):
        pool = GraphPool(torch.device("cuda"), gives_way=gives_way)
        function = CapturedFunction(
            lambda inputs: ((inputs["numbers"] * 2.0 + 1.0).sum(),), torch.device("cuda"), pool=pool
        )
        for _ in range(3):
            function({"numbers": torch.ones(2**25, device="cuda")})
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        function({"numbers": torch.ones(2**25 + 2**20, device="cuda")})
        peaks[gives_way] = torch.cuda.max_memory_reserved()
        del function, pool
        gc.collect()
        torch.cuda.empty_cache()
    assert peaks[True] < peaks[False] - 2**27
