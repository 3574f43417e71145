"""Sums in parts over ranks that read each other's memory: threads in the place of GPUs."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gram_core.distributed import peer_memory
from gram_core.distributed.peer_memory import PeerMemory, parts_of


class Handle:
    """What PeerMemory asks of a rendezvous, over the rooms of all threads."""

    def __init__(self, rooms: list[Tensor], barriers: dict[int, Barrier]):
        self.rooms, self.barriers = rooms, barriers

    def barrier(self, channel: int) -> None:
        self.barriers[channel].wait(timeout=60)

    def get_buffer(self, rank: int, shape: tuple[int], dtype: torch.dtype, place: int) -> Tensor:
        assert self.rooms[rank].dtype == dtype
        return self.rooms[rank][place : place + shape[0]]


def summed_by_threads(rooms: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Every rank's sum of `rooms`, one [n] per rank."""
    size = len(rooms)
    handle = Handle(rooms, {channel: Barrier(size) for channel in (peer_memory.SUMMED, peer_memory.ADDED)})
    most = parts_of(min(peer_memory.PIECE, len(rooms[0])), size)[0].stop

    def summed(rank: int) -> Tensor:
        peers = PeerMemory(SimpleNamespace(rank=rank, size=size), torch.device("cpu"))  # type: ignore[arg-type]
        peers._handles[rooms[rank].data_ptr()] = handle
        peers._landing[rooms[0].dtype, 0] = [
            torch.full((most,), torch.nan, dtype=rooms[0].dtype) for _ in range(size - 1)
        ]
        out = torch.full(rooms[0].shape, torch.nan, dtype=dtype)
        peers.sum_in_parts(rooms[rank], out)
        return out

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(summed, range(size)))


@pytest.mark.parametrize("size", [1, 5, 64, 1000, 5003])
@pytest.mark.parametrize("ranks", [3, 4, 8])
def test_every_rank_has_the_sum_in_the_order_of_ranks(monkeypatch, ranks, size):
    monkeypatch.setattr(peer_memory, "PIECE", 2048)
    generator = torch.Generator().manual_seed(size)
    rooms = [torch.randn(size, generator=generator) for _ in range(ranks)]
    expected = rooms[0].clone()
    for room in rooms[1:]:
        expected += room
    for found in summed_by_threads([room.clone() for room in rooms], torch.float32):
        assert torch.equal(found, expected)


def test_narrow_values_are_added_wide_and_all_ranks_read_the_same():
    generator = torch.Generator().manual_seed(0)
    rooms = [torch.randn(300, generator=generator).bfloat16() for _ in range(4)]
    expected = torch.stack([room.float() for room in rooms]).sum(0).bfloat16().float()
    sums = summed_by_threads([room.clone() for room in rooms], torch.float32)
    assert all(torch.equal(found, sums[0]) for found in sums)
    assert torch.allclose(sums[0], expected, rtol=2**-7, atol=0)


@pytest.mark.parametrize("ranks", [3, 4, 8])
def test_parts_cover_every_number_once(ranks):
    for size in (0, 1, 63, 64, 65, 4096, 4097):
        parts = parts_of(size, ranks)
        assert len(parts) == ranks
        assert [number for part in parts for number in range(part.start, part.stop)] == list(range(size))
        assert max(part.stop - part.start for part in parts) == parts[0].stop
