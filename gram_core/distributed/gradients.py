"""Gradients of several ranks, summed before clipping and the optimizers, so that every replica moves alike.

Steps that are launched one by one agree each time, on the host, which parameters have a gradient on any rank. A
captured step runs no Python when it is replayed: it agrees once, and its gradients have one flat place for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from gram_core.distributed.peer_memory import PeerMemory, summed, unsupported
from gram_core.distributed.ranks import Ranks
from gram_core.protocols import Made, Room


class JointGradients:
    """What `Optimization` sums over `ranks`.

    dtype: of what travels, None for each gradient's own (float32 at least). copies: whether GPUs that read each other's
    memory sum by copying. reduced: the gradients of the coming step are summed already, by torch's
    DistributedDataParallel.
    """

    def __init__(self, ranks: Ranks, dtype: torch.dtype | None = None, copies: bool = True):
        self.ranks, self.dtype = ranks, dtype
        self.reduced = False
        self.undecided = False
        """Whether no gradient has been met yet by which a captured step could agree on what it sums."""
        self._captured = False
        self._places: dict[tuple[int, ...], _Place] = {}
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        """Of what is summed aside, and of what follows it: the next sum need not wait for that."""
        self._aside = False
        """Whether anything is."""
        self._peers: PeerMemory | None = None
        self.without_copies = None if copies else "they were not asked for"
        """Why gradients are summed by collectives and not by copy engines (see `peer_memory`); None where they are not,
        or it was not asked yet."""

    def make_capturable(self, device: torch.device) -> None:
        """From now on nothing in `reduce` waits for the host, but for the first time that parameters are summed."""
        self._captured = True
        if device.type == "cuda" and self._streams is None:
            self._streams = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def in_peers(self, make: Callable[[Room | None], Made]) -> Made:
        """What `make` makes of a room for gradients that the GPUs of one host sum by copying, None where they can't."""
        device = torch.device("cuda", torch.cuda.current_device()) if self._streams else torch.device("cpu")
        self.without_copies = self.without_copies or unsupported(self.ranks, device)
        if self.without_copies is None:
            peers = PeerMemory(self.ranks, device)
            try:
                made = make(peers.room)
                peers.connect()
            except RuntimeError as error:
                self.without_copies = f"sharing memory failed: {error}".partition("\n")[0]
            failures = [found for found in self.ranks.all_values(self.without_copies) if found is not None]
            if not failures:
                self._peers = peers
                return made
            self.without_copies = failures[0]
        return make(None)

    @property
    def way(self) -> str:
        """How the encoder's gradients are summed, in a few words."""
        if self._peers is not None:
            return "by copy engines"
        return "by collectives" + (f" ({self.without_copies})" if self.without_copies else "")

    def reduce(self, parameters: Sequence[Tensor]) -> None:
        """Sums each gradient over ranks, in float32 (float64 where there is a float64 one), in one flat tensor.

        A parameter has a gradient afterwards if it has one on any rank. Shards of parameters (FSDP) are summed already.
        """
        if self.reduced:
            self.reduced = False
            return
        whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        place = self._place(whole)
        if place is not None:
            self.sum(place.collect())
            place.hand_out()

    def sum(self, values: Tensor) -> None:
        """`values`, summed over ranks in place; narrowed on the way where a narrower `dtype` was asked for."""
        if self.dtype is None or values.element_size() <= self.dtype.itemsize:
            self.ranks.all_reduce(values)
        else:
            values.copy_(self.ranks.all_reduce(values.to(self.dtype)))

    def sum_aside(
        self, values: Sequence[Tensor], then: Callable[[], None], into: Sequence[Tensor] | None = None
    ) -> None:
        """Sums `values` over ranks beside what the current stream is given next, and does `then` behind it.

        They are read when all that was given to the current stream is done; `join` waits for both.
        into: where the sums come, of `values` that lie in `peers`; None leaves them where the values were.
        """
        if self._streams is None:
            for value in values:
                self.sum(value)
            then()
            return
        self._aside = True
        summing, following = self._streams
        summing.wait_stream(torch.cuda.current_stream())
        for value, out in zip(values, into or values, strict=True):
            if into is None or self._peers is None:
                with torch.cuda.stream(summing):
                    self.sum(value)
            else:
                self._sum_copies(self._peers, value, out)
        following.wait_stream(summing)
        with torch.cuda.stream(following):
            then()

    def _sum_copies(self, peers: PeerMemory, value: Tensor, out: Tensor) -> None:
        assert self._streams is not None, "on GPUs"
        summing, following = self._streams
        if self.ranks.silent:
            following.wait_stream(summing)
            with torch.cuda.stream(following):
                summed([value], out)
            return
        if peers.in_parts:
            with torch.cuda.stream(summing):
                peers.sum_in_parts(value, out)
            return
        copied = peers.pieces(value)
        while True:
            with torch.cuda.stream(summing):
                piece = next(copied, None)
            if piece is None:
                return
            following.wait_stream(summing)
            with torch.cuda.stream(following):
                summed(piece[1], out[piece[0]])
                peers.consumed()

    def reduce_aside(self, parameters: Sequence[Tensor], then: Callable[[], None]) -> None:
        """As `reduce`, beside what the current stream is given next, and `then` behind it, if any has a gradient."""
        place = self._place(parameters)
        if place is None:
            return

        def handed_out() -> None:
            place.hand_out()
            then()

        self.sum_aside([place.collect()], handed_out)

    def join(self) -> None:
        """What the current stream is given from now on comes behind all that was summed aside."""
        if self._aside and self._streams is not None:
            self._aside = False
            if self._peers is not None and not self.ranks.silent:
                with torch.cuda.stream(self._streams[0]):
                    self._peers.release()
                torch.cuda.current_stream().wait_stream(self._streams[0])
            torch.cuda.current_stream().wait_stream(self._streams[1])  # which comes behind all sums

    def clip(self, parameters: Sequence[Tensor], max_norm: float) -> None:
        """Clips the norm of all gradients together; shards count with those that other ranks hold."""
        shards = [p.grad.to_local() for p in parameters if isinstance(p.grad, DTensor)]
        if not shards:
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            return
        whole = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        square = self.ranks.all_reduce(torch.nn.utils.get_total_norm(shards).square())
        if whole:
            square = square + torch.nn.utils.get_total_norm(whole).square()
        factor = (max_norm / (square.sqrt() + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_ has it
        torch._foreach_mul_([*shards, *whole], factor)

    def _place(self, parameters: Sequence[Tensor]) -> _Place | None:
        """Where gradients of those of `parameters` that have one on any rank are summed; None where none has."""
        key = tuple(map(id, parameters))
        if key in self._places:
            self._places[key].check(parameters)
            return self._places[key]
        used = self.ranks.host_max(torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8))
        moving = [parameter for parameter, is_used in zip(parameters, used.tolist(), strict=True) if is_used]
        self.undecided = not moving
        if not moving:
            return None
        place = _Place(moving)
        if self._captured:
            self._places[key] = place
        return place


class _Place:
    """One flat tensor for the gradients of `parameters`."""

    def __init__(self, parameters: Sequence[Tensor]):
        self._parameters = parameters
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32
        sizes = [parameter.numel() for parameter in parameters]
        self._flat = torch.empty(sum(sizes), dtype=dtype, device=parameters[0].device)
        self._parts = [
            part.view(parameter.shape) for part, parameter in zip(self._flat.split(sizes), parameters, strict=True)
        ]

    def check(self, parameters: Sequence[Tensor]) -> None:
        """Raises ValueError where one of `parameters` has a gradient and no place."""
        known = set(map(id, self._parameters))
        if any(parameter.grad is not None and id(parameter) not in known for parameter in parameters):
            raise ValueError(
                "a parameter had its first gradient after the processes had agreed on those that they sum; the engine "
                "eager agrees in every step"
            )

    def collect(self) -> Tensor:
        """All gradients, zeros for those that are not there."""
        pairs = [
            (part, p.grad.detach()) for part, p in zip(self._parts, self._parameters, strict=True) if p.grad is not None
        ]
        if len(pairs) < len(self._parts):
            self._flat.zero_()
        if pairs:
            torch._foreach_copy_([part for part, _ in pairs], [gradient for _, gradient in pairs])
        return self._flat

    def hand_out(self) -> None:
        """Every parameter's `.grad` is its part."""
        for parameter, part in zip(self._parameters, self._parts, strict=True):
            parameter.grad = part.to(parameter.dtype)
