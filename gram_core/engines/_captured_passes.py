"""Forward and backward passes of an encoder captured apart, so that a caller's own loop lies between them.

A forward pass leaves what its backward pass needs in the memory of its graphs' pool. Passes that are under way at the
same time (two calls before one backward) have pools, and graphs, of their own: the n-th has those of level n. Graphs of
one level share memory, for one of them at most is under way.
n texts, d width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors

from gram_core.batch import Texts
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.engines._captured import CapturedFunction, GraphPool, Inputs, Outputs, StaticInputs, signature_of
from gram_core.engines._inputs import Packer, packed_texts
from gram_core.engines._launched_pass import ONCE, launched, passed_back

MOST_GRAPHS = 16
"""Sizes of a level that graphs are kept of; the one longest unused goes first."""


class CapturedPasses:
    """`encoder` on texts of the host, in anyone's autograd.

    pools: makes the memory that graphs share.
    """

    def __init__(
        self,
        encoder: PackingEncoder,
        device: torch.device,
        pools: Callable[[torch.device], GraphPool] = GraphPool,
    ):
        self.encoder = encoder
        self._device, self._pools = device, pools
        self._packer = Packer(encoder)
        self._without_graph = CapturedFunction(self._encode, device, pool=pools(device))
        self._levels: list[_Level] = []
        self._learning: list[Tensor] = []
        self._gradients = _Gradients([])
        self._bound: tuple[Any, ...] = ()

    def __call__(self, texts: Texts, *, again: bool = False) -> Tensor:
        """Encodings [n, d]. again: keeps nothing, and computes the forward pass once more in the backward pass."""
        self._follow()
        inputs, count = self._packer.pack(texts), len(texts)
        if not (torch.is_grad_enabled() and self._learning):
            return self._alone(inputs, count)
        level = self._level()
        if not again and not level.known(inputs):  # a size that is not met again needs no graph
            level.make_room()
            return launched(self.encoder, texts, self._learning, again)
        call = _Call(self, inputs, count)
        found: Tensor = _Replayed.apply(call, again, *self._learning)
        return found

    def _alone(self, inputs: Inputs, count: int) -> Tensor:
        with torch.no_grad():
            (encodings,) = self._without_graph(inputs)
        return encodings[:count].clone()

    def _encode(self, inputs: Inputs) -> Outputs:
        return (self.encoder.encode(packed_texts(inputs)),)

    def _level(self) -> _Level:
        """The lowest that no pass is under way in."""
        free = next((level for level in self._levels if not level.busy), None)
        if free is None:
            free = _Level(self)
            self._levels.append(free)
        return free

    def _follow(self) -> None:
        """Forgets all graphs where the model, or where its parameters lie, has changed since they were made."""
        watch = self.encoder.watch
        parameters = list(self.encoder.parameters()) if watch is None else watch.state.parameters
        now = (watch and watch.state, [parameter.data_ptr() for parameter in parameters])
        if not self._bound or now[0] is not self._bound[0] or now[1] != self._bound[1]:
            self._bound = now
            self._levels = []
            self._without_graph.forget()
            self._learning = [parameter for parameter in parameters if parameter.requires_grad]
            self._gradients = _Gradients(self._learning)


class _Level:
    """Graphs of passes of which one at most is under way."""

    def __init__(self, passes: CapturedPasses):
        self._passes = passes
        self._pool = passes._pools(passes._device)
        self._pool.holders.add(self)
        self._pairs: OrderedDict[Any, _Pair | None] = OrderedDict()
        """By the inputs' signature; None where a size was met once."""
        self.busy = False

    def known(self, inputs: Inputs) -> bool:
        """Whether such inputs were met before; notes that they were."""
        signature = signature_of(inputs)
        known = signature in self._pairs
        self._pairs.setdefault(signature, None)
        while len(self._pairs) > MOST_GRAPHS:
            self._pairs.popitem(last=False)
        return known

    def pair(self, inputs: Inputs) -> _Pair:
        """The graphs for such inputs."""
        signature = signature_of(inputs)
        pair = self._pairs.get(signature)
        if pair is None:
            self.make_room()
            pair = self._pairs[signature] = _Pair(self._passes, inputs, self._pool)
        self._pairs.move_to_end(signature)
        pair.capture()
        return pair

    def make_room(self) -> None:
        """Before a pass that no graph serves: see `GraphPool.make_room`."""
        self._pool.make_room()

    def drop_graphs(self) -> None:
        """Lets the graphs' memory go; a pass of a known size captures them again."""
        for pair in self._pairs.values():
            if pair is not None:
                pair.drop()


class _Pair:
    """A forward and a backward graph of one size."""

    def __init__(self, passes: CapturedPasses, inputs: Inputs, pool: GraphPool):
        self.static = StaticInputs(inputs, passes._device)
        self.static.load(inputs)
        self.encodings = self.of_encodings = torch.empty(0)
        self.forward: Any = None
        self.backward: Any = None
        self._made: Tensor | None = None
        self.reached: list[bool] = []
        """Which parameters have a gradient."""
        places = passes._gradients.places
        learning = [nn.Parameter(parameter.detach()) for parameter in passes._learning]
        """Of the same memory. The caller's own parameters wait for gradients on the stream of the caller's loop, which
        a capture may not touch, and with hooks of its own."""

        def forward() -> Outputs:
            with torch.enable_grad(), _in_place_of(passes._learning, learning, passes.encoder):
                (self._made,) = passes._encode(self.static.inputs)
            return (self._made.detach(),)

        def backward() -> Outputs:
            assert self._made is not None, "forward comes first"
            found = passed_back(self._made, learning, self.of_encodings)
            self.reached = [gradient is not None for gradient in found]
            reached = [(place, g) for place, g in zip(places, found, strict=True) if g is not None]
            if reached:
                torch._foreach_copy_([place for place, _ in reached], [gradient for _, gradient in reached])
            return ()

        self._encoder, self._kind, self._pool = passes.encoder, passes._device.type, pool
        self._functions = forward, backward
        with self._autocast():
            (encodings,) = pool.run(forward)  # what is captured may neither compile nor load a kernel: this has
            self.of_encodings = torch.zeros_like(encodings)
            pool.run(backward)
        self._made = None

    def capture(self) -> None:
        """Makes the graphs, where there are none."""
        if self.forward is not None:
            return
        forward, backward = self._functions
        with self._autocast():
            self.forward, (self.encodings,) = self._pool.capture(forward)
            self.backward, _ = self._pool.capture(backward)
        self._made = None

    def drop(self) -> None:
        """Lets them go, and the encodings with them."""
        self.forward = self.backward = None
        self.encodings = self.encodings.new_empty(0)

    def _autocast(self) -> torch.autocast:
        """Casts kept by autocast would be another graph's memory, or none of the graph's work."""
        dtype = self._encoder.compute_dtype
        narrow = dtype != self._encoder.encoder.model.dtype
        return torch.autocast(self._kind, dtype, enabled=narrow, cache_enabled=False)


@contextmanager
def _in_place_of(parameters: Sequence[Tensor], others: Sequence[Tensor], encoder: PackingEncoder) -> Iterator[None]:
    """Within, the encoder's modules hold `others` where they hold `parameters`."""
    by_id = {id(parameter): other for parameter, other in zip(parameters, others, strict=True)}
    places = [
        (m._parameters, name, p) for m in encoder.modules() for name, p in m._parameters.items() if id(p) in by_id
    ]
    for held, name, parameter in places:
        held[name] = by_id[id(parameter)]  # type: ignore[assignment]
    encoder.read_weights_again()
    try:
        yield
    finally:
        for held, name, parameter in places:
            held[name] = parameter
        encoder.read_weights_again()


class _Gradients:
    """Where backward passes leave gradients, of all levels; outside of any graph's memory.

    Those of one dtype lie side by side, so that a copy of them all is one.
    """

    ALIGNED = 64
    """Numbers that each begins at a multiple of: kernels read several at a time."""

    def __init__(self, parameters: Sequence[Tensor]):
        self._like: dict[torch.dtype, list[Tensor]] = {}
        """The gradients' shapes, one behind the other, and those of what fills up between them."""
        self._order: list[tuple[torch.dtype, int]] = []
        """Of each parameter, its dtype and its number among those of that dtype."""
        for parameter in parameters:
            like = self._like.setdefault(parameter.dtype, [])
            self._order.append((parameter.dtype, len(like)))
            like.append(parameter.detach().to("meta"))
            if filling := -parameter.numel() % self.ALIGNED:
                like.append(torch.empty(filling, device="meta"))
        self._flat = {
            dtype: torch.zeros(sum(part.numel() for part in like), dtype=dtype, device=parameters[0].device)
            for dtype, like in self._like.items()
        }
        self.places = self._views(self._flat)

    def copied(self) -> list[Tensor]:
        """The gradients, in memory of their own."""
        return self._views({dtype: flat.clone() for dtype, flat in self._flat.items()})

    def _views(self, flat: dict[torch.dtype, Tensor]) -> list[Tensor]:
        parts = {dtype: _unflatten_dense_tensors(flat[dtype], like) for dtype, like in self._like.items()}
        return [parts[dtype][number] for dtype, number in self._order]


class _Call:
    """One forward pass and the backward pass that belongs to it."""

    def __init__(self, passes: CapturedPasses, inputs: Inputs, count: int):
        self._passes, self._inputs, self._count = passes, inputs, count
        self._level: _Level | None = None
        self._pair: _Pair | None = None
        self._over = False
        self._bound = passes._bound

    def encodings(self, again: bool) -> Tensor:
        """[n, d]; again: nothing is kept."""
        if again:
            return self._passes._alone(self._inputs, self._count)
        return self._forward().encodings[: self._count].clone()

    def gradients(self, of_encodings: Tensor) -> Sequence[Tensor | None]:
        """Those of the parameters that learn, new tensors."""
        if self._over:
            raise RuntimeError(ONCE)
        if self._passes._bound is not self._bound:
            raise RuntimeError("the encoder's parameters were replaced between encode and the backward pass")
        pair = self._pair or self._forward()
        pair.of_encodings.zero_()
        pair.of_encodings[: self._count].copy_(of_encodings)
        pair.backward.replay()
        found = self._passes._gradients.copied()
        self._end()
        return [gradient if reached else None for gradient, reached in zip(found, pair.reached, strict=True)]

    def _forward(self) -> _Pair:
        level = self._level = self._passes._level()
        level.busy = True
        pair = self._pair = level.pair(self._inputs)
        pair.static.load(self._inputs)
        pair.forward.replay()
        return pair

    def _end(self) -> None:
        self._over, self._pair = True, None
        if self._level is not None:
            self._level.busy, self._level = False, None

    def __del__(self) -> None:
        self._end()


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, again: bool, *_: Tensor) -> Tensor:
        ctx.call = call
        return call.encodings(again)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return None, None, *ctx.call.gradients(gradient)
