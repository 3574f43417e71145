"""Functions of fixed shapes captured as CUDA graphs, one per set of input shapes.

The first call with new shapes runs as it is (a real call, which also compiles and warms up), the second is
captured, later ones are replayed. Inputs are copied into the graph's own buffers; host inputs of int32 travel
as one pinned block, double-buffered, so that the host prepares the next call while the device works.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Inputs = Mapping[str, Tensor]
Signature = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]

STAGING_BUFFERS = 3
"""Pinned blocks in flight per signature: the device may lag so many calls behind the host."""


def signature_of(inputs: Inputs) -> Signature:
    """Names, shapes and dtypes: what a captured graph is bound to."""
    return tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items())


@dataclass
class _Staging:
    block: Tensor
    copied: torch.cuda.Event
    used: bool = False


@dataclass
class _Instance:
    """Static inputs of one signature, and its graph once there is one."""

    inputs: dict[str, Tensor]
    block: Tensor
    """All int32 inputs, which are views of it."""
    staging: list[_Staging]
    turn: int = 0
    calls: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    output: Tensor | None = None


@dataclass
class CaptureCounts:
    """Calls by the way they took."""

    replayed: int = 0
    uncaptured: int = 0
    signatures: set[Signature] = field(default_factory=set)


class CapturedFunction:
    """`function` of tensors on `device`, replayed from CUDA graphs where the device is one.

    function: reads its inputs by name, returns one tensor; nothing in it may wait for the device.
    most_graphs: graphs kept at once; the one longest unused goes first.
    The output is the graph's own memory: valid until the next call.
    """

    def __init__(
        self,
        function: Callable[[Inputs], Tensor],
        device: torch.device,
        *,
        most_graphs: int = 16,
        pool: GraphPool | None = None,
    ):
        self._function = function
        self._device = device
        self._most_graphs = most_graphs
        self._pool = pool if pool is not None else GraphPool(device)
        self._instances: OrderedDict[Signature, _Instance] = OrderedDict()
        self.counts = CaptureCounts()

    def __call__(self, inputs: Inputs) -> Tensor:
        """The function's output for `inputs`, host or device tensors."""
        if self._device.type != "cuda":
            self.counts.uncaptured += 1
            return self._function(inputs)
        signature = signature_of(inputs)
        instance = self._instance(signature, inputs)
        self._load(instance, inputs)
        instance.calls += 1
        if instance.graph is None and instance.calls > 1:
            self._capture(instance)
        if instance.graph is None:
            self.counts.uncaptured += 1
            return self._pool.run(lambda: self._function(instance.inputs))
        self.counts.replayed += 1
        instance.graph.replay()
        assert instance.output is not None
        return instance.output

    def _instance(self, signature: Signature, inputs: Inputs) -> _Instance:
        instance = self._instances.get(signature)
        if instance is None:
            while len(self._instances) >= self._most_graphs:
                self._instances.popitem(last=False)
            instance = self._instances[signature] = self._new_instance(inputs)
            self.counts.signatures.add(signature)
        self._instances.move_to_end(signature)
        return instance

    def _new_instance(self, inputs: Inputs) -> _Instance:
        packed = {name: tensor for name, tensor in inputs.items() if _travels_packed(tensor)}
        sizes = [tensor.numel() for tensor in packed.values()]
        block = torch.zeros(sum(sizes), dtype=torch.int32, device=self._device)
        static = {
            name: part.view(tensor.shape)
            for (name, tensor), part in zip(packed.items(), block.split(sizes), strict=True)
        }
        for name, tensor in inputs.items():
            if name not in static:
                static[name] = torch.zeros_like(tensor, device=self._device)
        staging = [
            _Staging(torch.empty(sum(sizes), dtype=torch.int32, pin_memory=True), torch.cuda.Event())
            for _ in range(STAGING_BUFFERS)
        ]
        return _Instance(static, block, staging)

    def _load(self, instance: _Instance, inputs: Inputs) -> None:
        staging = instance.staging[instance.turn % STAGING_BUFFERS]
        instance.turn += 1
        if staging.used:
            staging.copied.synchronize()
        parts = [tensor.reshape(-1) for tensor in inputs.values() if _travels_packed(tensor)]
        torch.cat(parts, out=staging.block)
        instance.block.copy_(staging.block, non_blocking=True)
        staging.copied.record()
        staging.used = True
        for name, tensor in inputs.items():
            if not _travels_packed(tensor):
                instance.inputs[name].copy_(tensor, non_blocking=True)

    def _capture(self, instance: _Instance) -> None:
        instance.graph, instance.output = self._pool.capture(lambda: self._function(instance.inputs))


class GraphPool:
    """One memory pool and stream that graphs of a training run share: they never run at the same time."""

    def __init__(self, device: torch.device):
        self._handle = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """Runs on the pool's stream, in order with the current one."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            output = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return output

    def capture(self, function: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The function as a graph, and its output's place; the memory of uncaptured calls is given back first."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._handle, stream=self._stream):
            output = function()
        return graph, output


def _travels_packed(tensor: Tensor) -> bool:
    return tensor.dtype == torch.int32 and not tensor.is_cuda
