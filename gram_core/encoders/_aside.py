"""Work that nothing in a pass waits for, beside it on the device: gradients of weights, updates of finished layers.

A small step's products fill a part of a GPU only; what is independent of the chain from layer to layer fills the rest.
"""

from collections.abc import Callable

import torch
from torch import Tensor

MOST_TOKENS = 16384
"""The products of larger passes fill the device by themselves, and what they read would be held in memory."""


class Aside:
    """A stream beside the current one; on a CPU work is done where it is given, and in large passes some of it."""

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._large = False
        self._used = False
        """Whether this pass gave anything to the stream: another's work is none that a captured pass may wait for."""
        self._held: list[Tensor] = []
        self._before: tuple[torch.cuda.Event, list[Tensor]] | None = None
        """What was given before the last turn: when it is done, and what it reads."""

    def begin(self, tokens: int) -> None:
        """Opens a pass of so many tokens."""
        self._large, self._used = tokens > MOST_TOKENS, False

    def run(self, work: Callable[[], object], *reads: Tensor) -> None:
        """Does `work` once all that was given to the current stream is done; the activations that it `reads` must stay
        as they are."""
        if self._stream is None or (self._large and reads):
            work()
            return
        self._used = True
        self._held += reads  # else their memory would be given to the next tensor of the current stream
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()

    def turn(self) -> None:
        """Waits for what was given before the last turn and lets go of what that read, or memory would pile up."""
        if self._stream is None or not self._used:
            return
        if self._before is not None:
            torch.cuda.current_stream().wait_event(self._before[0])
        self._before = self._stream.record_event(), self._held
        self._held = []

    def join(self) -> None:
        """Closes the pass: what the current stream is given from now on comes behind all of it."""
        if self._stream is not None and self._used:
            torch.cuda.current_stream().wait_stream(self._stream)
        self._held, self._before = [], None
