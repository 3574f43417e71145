"""Pinned memory through which a call's host inputs travel, so that the host prepares calls while the device works."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

FEWEST_BLOCKS, MOST_BLOCKS, MOST_BYTES = 3, 16, 2**23
"""How many calls of one signature the device may lag behind the host. In Multi-step's CF steps the host is the busier
of the two, in its encoder's minibatches the device: what the host is ahead by then, it has in hand in the next CF
steps. Large inputs are long work for the device, and a few calls of them are lead enough."""


class Event(Protocol):
    """What is needed of `torch.cuda.Event`."""

    def record(self) -> None: ...
    def synchronize(self) -> None: ...


@dataclass
class Block:
    """Host memory int32 [n], and the event after which it may be written again; None where copies are done at once."""

    memory: Tensor
    copied: Event | None


class Staging:
    """Blocks of `size` numbers for `device`, used in turn."""

    def __init__(self, size: int, device: torch.device):
        self._pinned = device.type == "cuda"
        count = max(FEWEST_BLOCKS, min(MOST_BLOCKS, MOST_BYTES // max(4 * size, 1)))
        memory = torch.empty(count, size, dtype=torch.int32, pin_memory=self._pinned and size > 0)
        self.blocks = [Block(part, self._event()) for part in memory.unbind()]
        self._turn = 0

    def send(self, parts: Sequence[Tensor], to: Tensor) -> None:
        """Copies `parts`, int32 tensors of the host of `size` numbers in all, into `to` [size] on the device.

        Returns when they are read, which is before they have arrived; waits only while all blocks are on their way.
        """
        block = self.blocks[self._turn % len(self.blocks)]
        self._turn += 1
        if block.copied is not None:
            block.copied.synchronize()  # returns at once where nothing was recorded yet
        torch.cat(list(parts), out=block.memory)
        to.copy_(block.memory, non_blocking=True)
        if block.copied is not None:
            block.copied.record()

    def _event(self) -> Event | None:
        return torch.cuda.Event() if self._pinned else None
