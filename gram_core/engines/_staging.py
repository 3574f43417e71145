"""Pinned memory through which a call's host inputs travel, so that the host prepares calls while the device works."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MOST_BLOCKS = 16
"""Calls of one function that the device may lag behind the host. Multi-step's CF steps keep the host the busier of the
two, its encoder's minibatches the device: what the host gains there it spends here."""


class Event(Protocol):
    """What `torch.cuda.Event` does of its many things."""

    def record(self) -> None: ...
    def query(self) -> bool: ...
    def synchronize(self) -> None: ...


@dataclass
class Block:
    """Host memory int32 [n], and the event after which it may be written again; None where copies are done at once."""

    memory: Tensor
    copied: Event | None

    @property
    def free(self) -> bool:
        """Whether its last copy is done."""
        return self.copied is None or self.copied.query()


class Staging:
    """Blocks of `size` numbers for `device`: as many as the device was ever behind, at most `most`.

    They are used in turn, so that the one at the front is the longest in flight.
    """

    def __init__(self, size: int, device: torch.device, most: int = MOST_BLOCKS):
        self._size = size
        self._pinned = device.type == "cuda"
        self._most = most
        self.blocks: deque[Block] = deque()

    def send(self, parts: Sequence[Tensor], to: Tensor) -> None:
        """Copies `parts`, int32 tensors of the host of `size` numbers in all, into `to` [size] on the device.

        Returns when they are read, which is before they have arrived; waits only where all blocks are on their way.
        """
        block = self._next()
        torch.cat(list(parts), out=block.memory)
        to.copy_(block.memory, non_blocking=True)
        if block.copied is not None:
            block.copied.record()
        self.blocks.append(block)

    def _next(self) -> Block:
        """A block to be written, taken out of the line."""
        if self.blocks and self.blocks[0].free:
            return self.blocks.popleft()
        if len(self.blocks) < self._most:
            return Block(torch.empty(self._size, dtype=torch.int32, pin_memory=self._pinned), self._event())
        block = self.blocks.popleft()
        if block.copied is not None:
            block.copied.synchronize()
        return block

    def _event(self) -> Event | None:
        return torch.cuda.Event() if self._pinned else None
