"""Functions of fixed shapes captured as CUDA graphs, one per set of input shapes.

The first call with new shapes runs as it is (a real call, which also compiles and warms up), the second is
captured, later ones are replayed. Inputs are copied into the graph's own buffers; those of the host travel as one
pinned block (`_staging`).
"""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from gram_core.engines._staging import Staging

MUCH = 1 / 64
"""Of a device's memory, above which graphs make room for a call that none of them serves."""

Inputs = Mapping[str, Tensor]
Outputs = tuple[Tensor, ...]
Signature = tuple[Hashable, ...]


def signature_of(inputs: Inputs) -> Signature:
    """Names, shapes, dtypes, and whether the device has them: what a captured graph and its block are bound to."""
    return tuple((name, tuple(tensor.shape), tensor.dtype, tensor.is_cuda) for name, tensor in inputs.items())


class Capacities:
    """Sizes that counts are rounded up to, few enough that graphs are replayed and not captured anew.

    A size in use is taken again while it wastes less than an eighth; a new one leaves a little room, so that
    counts that scatter around a mean share it. Every size fits the count that it was made for: no two are alike.
    """

    def __init__(self, smallest: int):
        self._smallest = smallest
        self._sizes: list[int] = []

    def fit(self, count: int) -> int:
        """The size for `count`."""
        fitting = [size for size in self._sizes if self.fits(count, size)]
        if fitting:
            return min(fitting)
        step = max(self._smallest, 1 << max(0, count.bit_length() - 6))
        size = -(-(count + self._room(count)) // step) * step
        self._sizes.append(size)
        return size

    def fits(self, count: int, size: int) -> bool:
        """Whether `size` holds `count` and wastes little on it."""
        return count <= size <= count + max(count // 8, self._smallest + self._room(count))

    def _room(self, count: int) -> int:
        return count // 64


class StaticInputs:
    """Buffers on `device` for inputs of one signature. Those of the host travel as one block, int32; `inputs` are
    views of it."""

    def __init__(self, inputs: Inputs, device: torch.device):
        travelling = dict(_travelling(inputs))
        sizes = [tensor.numel() * tensor.element_size() // 4 for tensor in travelling.values()]
        self.block = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        self.inputs = {
            name: part.view(tensor.dtype).view(tensor.shape)
            for (name, tensor), part in zip(travelling.items(), self.block.split(sizes), strict=True)
        }
        for name, tensor in inputs.items():
            if name not in self.inputs:
                self.inputs[name] = torch.zeros_like(tensor, device=device)
        self.staging = Staging(len(self.block), device)

    def load(self, inputs: Inputs) -> None:
        """Copies them here; returns before they have arrived."""
        travelling = dict(_travelling(inputs))
        if travelling:
            parts = [tensor.contiguous().view(-1).view(torch.int32) for tensor in travelling.values()]
            self.staging.send(parts, self.block)
        for name, tensor in inputs.items():
            if name not in travelling:
                self.inputs[name].copy_(tensor, non_blocking=True)


@dataclass
class _Instance:
    """Static inputs of one signature, and its graph once there is one."""

    static: StaticInputs
    calls: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    outputs: Outputs = ()


@dataclass
class CaptureCounts:
    """Calls by the way they took."""

    replayed: int = 0
    uncaptured: int = 0
    captured: int = 0
    """Graphs made."""
    signatures: set[Signature] = field(default_factory=set)


class CapturedFunction:
    """`function` of tensors on `device`; replayed from graphs on CUDA, elsewhere just called on the same buffers.

    function: reads its inputs by name, returns tensors; nothing in it may wait for the device.
    most_graphs: graphs kept at once; the one longest unused goes first.
    The outputs are the graph's own memory: valid until the next call of any graph of the pool.
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        device: torch.device,
        *,
        most_graphs: int = 16,
        pool: GraphPool | None = None,
    ):
        self._function = function
        self._device = device
        self._captures = device.type == "cuda"
        self._uncaptured = False
        self._most_graphs = most_graphs
        self._pool = pool if pool is not None else GraphPool(device)
        self._pool.holders.add(self)
        self._instances: OrderedDict[Signature, _Instance] = OrderedDict()
        self.counts = CaptureCounts()

    def __call__(self, inputs: Inputs, **constants: int) -> Outputs:
        """The function's outputs for `inputs`, host or device tensors; `constants` are part of the signature."""
        function = partial(self._function, **constants)
        signature = (*signature_of(inputs), *constants.items())
        instance = self._instance(signature, inputs)
        instance.calls += 1
        with self._pool.idle.busy():
            instance.static.load(inputs)
            return self._run(instance, lambda: function(instance.static.inputs))

    def _run(self, instance: _Instance, function: Callable[[], Outputs]) -> Outputs:
        if self._captures and not self._uncaptured and instance.graph is None:
            if instance.calls > 1:
                instance.graph, instance.outputs = self._pool.capture(function)
                self.counts.captured += 1
            else:
                self._pool.make_room()
        if self._uncaptured or instance.graph is None:
            self.counts.uncaptured += 1
            return self._pool.run(function)
        self.counts.replayed += 1
        instance.graph.replay()
        return instance.outputs

    @property
    def made_ready(self) -> int:
        """Calls so far whose like comes faster: first ones of new shapes, and captures; 0 where nothing is captured."""
        return self.counts.uncaptured + self.counts.captured if self._captures else 0

    @contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Within, the function runs as it is: a profiler then sees which phase launches which kernel."""
        self._uncaptured = True
        try:
            yield
        finally:
            self._uncaptured = False

    def drop_graphs(self) -> None:
        """Lets their memory go; the next call of each size captures it again, without a run of its own before."""
        for instance in self._instances.values():
            instance.graph, instance.outputs = None, ()

    def forget(self) -> None:
        """Drops all graphs, whose tensors were replaced: what follows runs as it is, and is captured anew."""
        self._instances.clear()

    def _instance(self, signature: Signature, inputs: Inputs) -> _Instance:
        instance = self._instances.get(signature)
        if instance is None:
            while len(self._instances) >= self._most_graphs:
                self._instances.popitem(last=False)
            instance = self._instances[signature] = _Instance(StaticInputs(inputs, self._device))
            self.counts.signatures.add(signature)
        self._instances.move_to_end(signature)
        return instance


class IdleMeter:
    """How long the device had nothing to do between the calls of captured functions: it waited for the host.

    Marks where each call's work begins and ends on the device; reading waits for the last one. Nothing is marked
    before the first reading: who never reads, as a training loop does not, pays nothing and keeps nothing.
    """

    def __init__(self, device: torch.device):
        self._keeps_time = device.type == "cuda"
        self._marking = False
        self._ends: list[torch.cuda.Event] = []
        self._begins: list[torch.cuda.Event] = []

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Within, work is given to the device."""
        if not self._marking:
            yield
            return
        self._begins.append(self._mark())
        try:
            yield
        finally:
            self._ends.append(self._mark())

    def take_idle_s(self) -> float | None:
        """Seconds between calls since the last reading, None where the device keeps no time; starts anew."""
        begins, ends, self._begins, self._ends = self._begins, self._ends, [], []
        if not self._keeps_time:
            return None
        self._marking = True
        torch.cuda.synchronize()
        return sum(end.elapsed_time(begin) for end, begin in zip(ends, begins[1:], strict=False)) / 1e3

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class HoldsGraphs(Protocol):
    """Has graphs of a pool, and captures anew what it has dropped."""

    def drop_graphs(self) -> None:
        """Lets go of the graphs, none of which is needed by work under way."""


class GraphPool:
    """What the graphs of a training run share: they never run at the same time.

    One memory pool, one stream, and one meter of the time between them.

    gives_way: whether graphs are dropped where a call that none of them serves would need much memory beside theirs;
    not where a graph waits for other processes, whose turn to capture may be another.
    """

    def __init__(self, device: torch.device, *, gives_way: bool = True):
        self.idle = IdleMeter(device)
        self.holders: weakref.WeakSet[HoldsGraphs] = weakref.WeakSet()
        """Who have graphs of this pool."""
        self._gives_way = gives_way
        self._device = device
        self._graph_bytes = 0
        self._handle = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, function: Callable[[], Outputs]) -> Outputs:
        """Runs on the pool's stream, in order with the current one."""
        if self._stream is None:
            return function()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            outputs = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return outputs

    def capture(self, function: Callable[[], Outputs]) -> tuple[torch.cuda.CUDAGraph, Outputs]:
        """The function as a graph, and its outputs' place; the memory of uncaptured calls is given back first."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(self._device)
        graph = torch.cuda.CUDAGraph()
        with collection_paused(), torch.cuda.graph(graph, pool=self._handle, stream=self._stream):
            outputs = function()
        self._graph_bytes += torch.cuda.memory_reserved(self._device) - before
        return graph, outputs

    def make_room(self) -> None:
        """Before a call that no graph serves, which takes about as much memory as the graphs hold: they are dropped.

        Only where that is more than MUCH of the device. Outputs that someone still reads keep their memory.
        """
        if not self._gives_way or self._graph_bytes <= MUCH * _device_bytes(self._device):
            return
        torch.cuda.synchronize()
        for holder in self.holders:
            holder.drop_graphs()
        self._handle, self._graph_bytes = torch.cuda.graph_pool_handle(), 0
        torch.cuda.empty_cache()


def _device_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


@contextmanager
def collection_paused() -> Iterator[None]:
    """Within, Python collects no cycles: one that holds another graph, destroyed while one is captured, invalidates it.

    torch no longer collects before a capture either (since 2.9: https://github.com/pytorch/pytorch/pull/161037).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _travelling(inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    """The inputs that are the host's, numbers of eight bytes first, so that each stands where its size divides.

    They travel as they are, as pairs of int32 if need be; numbers of other sizes are copied one by one.
    """
    for size in (8, 4):
        for name, tensor in inputs.items():
            if tensor.element_size() == size and not tensor.is_cuda:
                yield name, tensor


class Captured:
    """A method, or a part of one, whose work is captured: `functions`, whose graphs share a pool."""

    _pool: GraphPool
    functions: tuple[CapturedFunction, ...]

    def take_idle_s(self) -> float | None:
        """Seconds in which the device waited for the host since the last call; None where it keeps no time."""
        return self._pool.idle.take_idle_s()

    def made_ready(self) -> int:
        """Calls so far of sizes that were new: run as they are, then captured. What steps of known sizes do not pay."""
        return sum(function.made_ready for function in self.functions)

    def capture_counts(self) -> dict[str, int]:
        """Calls replayed from graphs and calls run uncaptured, so far, of all its functions."""
        counts = [function.counts for function in self.functions]
        return {
            "replayed": sum(count.replayed for count in counts),
            "uncaptured": sum(count.uncaptured for count in counts),
        }
