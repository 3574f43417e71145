"""Sums over the GPUs of one host by their copy engines, which leave the multiprocessors to the matrix products.

A collective of NCCL takes multiprocessors while it runs, and a product that fills all of them then takes two rounds: on
two H200, six sums of a layer's 7 million gradients cost 0.7 ms of a step of 10 although all were overlapped. Here each
rank's gradients lie in memory that the others can read (torch's symmetric memory); when all have written theirs, each
copies the others', and adds all up in the order of ranks, so that every rank has the same sum to the last bit. From
three ranks on each adds up one W-th part of the numbers, and copies the other parts' sums: it reads 2 n (W - 1) / W
numbers in place of n (W - 1).
W ranks, n numbers.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gram_core.distributed.ranks import Ranks

PIECE, TURNS = 2**23, 2
"""Numbers that are copied at once, and how many such pieces have a place to land: while one is added, the next is
copied. A layer of BERT's has 7 million weights."""
SUMMED, READ, ADDED = 0, 1, 2
"""Channels of the barriers: all have written what is summed; all have read what may be written over; all have added up
their part."""
ALIGNED = 64
"""Parts begin at multiples of so many numbers."""


def unsupported(ranks: Ranks, device: torch.device) -> str | None:
    """Why these ranks can't read each other's memory, in a few words; the same on every rank, None where they can."""
    reason = _reason(ranks, device)
    reasons = [found for found in ranks.all_values(reason) if found is not None]
    return reasons[0] if reasons else None


def _reason(ranks: Ranks, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "processors have no copy engines"
    if not ranks.on_one_host:
        return "the ranks are on several hosts"
    others = [number for number in range(torch.cuda.device_count()) if number != device.index]
    if not all(torch.cuda.can_device_access_peer(device, other) for other in others):
        return "the GPUs cannot read each other's memory"
    try:
        from torch.distributed import _symmetric_memory  # noqa: F401
    except ImportError:
        return "this torch has no symmetric memory"
    return None


class PeerMemory:
    """Memory of this rank that the others read. Every rank asks for the same rooms in the same order, then connects."""

    def __init__(self, ranks: Ranks, device: torch.device):
        self._ranks, self._device = ranks, device
        self._rooms: list[Tensor] = []
        self._handles: dict[int, Any] = {}
        self._landing: dict[tuple[torch.dtype, int], list[Tensor]] = {}
        """Copies of other ranks' pieces, by dtype and turn."""
        self._emptied: dict[int, torch.cuda.Event] = {}
        self._turn = 0

    def room(self, size: int, dtype: torch.dtype) -> Tensor:
        """Zeros [n] that the other ranks can read once `connect` was called."""
        from torch.distributed import _symmetric_memory

        made = _symmetric_memory.empty(size, dtype=dtype, device=self._device)
        made.zero_()
        self._rooms.append(made)
        return made

    def connect(self) -> None:
        """Makes all rooms known to all ranks; raises RuntimeError where the driver shares no memory."""
        from torch.distributed import _symmetric_memory

        group: Any = self._ranks.device_group or dist.group.WORLD
        for made in self._rooms:
            self._handles[made.data_ptr()] = _symmetric_memory.rendezvous(made, group)
        for dtype in {made.dtype for made in self._rooms}:
            size = min(PIECE, max(made.numel() for made in self._rooms if made.dtype == dtype))
            if self.in_parts:
                size = parts_of(size, self._ranks.size)[0].stop
            for turn in range(TURNS):
                self._landing[dtype, turn] = [
                    torch.empty(size, dtype=dtype, device=self._device) for _ in range(self._ranks.size - 1)
                ]
        if not all([self._proved(made) for made in self._rooms]):
            raise RuntimeError("what one rank wrote another did not read")

    def _proved(self, made: Tensor) -> bool:
        """Whether this rank reads what the others write at either end of a room; leaves zeros."""
        handle, size = self._handles[made.data_ptr()], made.numel()
        made[0] = made[-1] = self._ranks.rank + 1
        handle.barrier(SUMMED)
        read = [
            handle.get_buffer(rank, (1,), made.dtype, place).clone()
            for rank in range(self._ranks.size)
            for place in (0, size - 1)
        ]
        handle.barrier(READ)
        made.zero_()
        return torch.cat(read).tolist() == [rank + 1 for rank in range(self._ranks.size) for _ in range(2)]

    @property
    def in_parts(self) -> bool:
        """Whether `sum_in_parts` copies less than `pieces`."""
        return self._ranks.size > 2

    def sum_in_parts(self, own: Tensor, out: Tensor) -> None:
        """Sums a room [n] over ranks into `out` [n] on the current stream; the room then holds sums in places.

        Each rank adds up its part of a piece where its own values were, which no other rank reads, and in their dtype.
        """
        handle, ranks = self._handles[own.data_ptr()], self._ranks
        handle.barrier(SUMMED)
        for start in range(0, own.numel(), PIECE):
            piece = slice(start, min(start + PIECE, own.numel()))
            parts = [slice(start + part.start, start + part.stop) for part in parts_of(piece.stop - start, ranks.size)]
            mine = own[parts[ranks.rank]]
            if len(mine):
                landing = iter(self._landing[own.dtype, 0])
                values = [mine if rank == ranks.rank else next(landing)[: len(mine)] for rank in range(ranks.size)]
                for rank in self._others():
                    values[rank].copy_(handle.get_buffer(rank, (len(mine),), own.dtype, parts[ranks.rank].start))
                summed(values, out[parts[ranks.rank]])
                mine.copy_(out[parts[ranks.rank]])
                if own.dtype != out.dtype:
                    out[parts[ranks.rank]].copy_(mine)  # as the others will read it
            handle.barrier(ADDED)
            for rank in self._others():
                size = parts[rank].stop - parts[rank].start
                if size:
                    out[parts[rank]].copy_(handle.get_buffer(rank, (size,), own.dtype, parts[rank].start))

    def _others(self) -> list[int]:
        """The other ranks, each rank's next first: no two read from the same one at the same time."""
        return [(self._ranks.rank + step) % self._ranks.size for step in range(1, self._ranks.size)]

    def pieces(self, own: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
        """Pieces of a room [n], each with all ranks' values [m] in the order of ranks, copied on the current stream.

        Whoever reads them says so by `consumed` before the next piece is asked for.
        """
        handle = self._handles[own.data_ptr()]
        handle.barrier(SUMMED)
        for start in range(0, own.numel(), PIECE):
            part = slice(start, min(start + PIECE, own.numel()))
            size, turn = part.stop - part.start, self._turn % TURNS
            if turn in self._emptied:
                torch.cuda.current_stream().wait_event(self._emptied[turn])
            found, landing = [], iter(self._landing[own.dtype, turn])
            for rank in range(self._ranks.size):
                if rank == self._ranks.rank:
                    found.append(own[part])
                else:
                    found.append(next(landing)[:size])
                    found[-1].copy_(handle.get_buffer(rank, (size,), own.dtype, start))
            yield part, found
            self._turn += 1

    def consumed(self) -> None:
        """The current stream has been given all that reads the present piece."""
        self._emptied[self._turn % TURNS] = torch.cuda.current_stream().record_event()

    def release(self) -> None:
        """Returns, on the current stream, when all ranks have copied what they read: rooms may be written again."""
        self._emptied = {}
        next(iter(self._handles.values())).barrier(READ)


def parts_of(size: int, ranks: int) -> list[slice]:
    """`size` numbers in as many parts as there are ranks, the first being the largest; the last ones may be empty."""
    step = -(-size // (ranks * ALIGNED)) * ALIGNED
    return [slice(min(size, rank * step), min(size, (rank + 1) * step)) for rank in range(ranks)]


def summed(values: Sequence[Tensor], out: Tensor) -> None:
    """The sum of `values`, of one shape, in their order, in the dtype of `out`."""
    if len(values) == 1:
        out.copy_(values[0])
        return
    torch.add(values[0].to(out.dtype), values[1], out=out)
    for value in values[2:]:
        out.add_(value)
