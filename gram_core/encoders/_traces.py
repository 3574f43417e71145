"""What a pass that is only a trial would leave behind: random numbers drawn, and what parts of a model note down."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MOST_INTEGERS = 1 << 20
"""In a buffer of integers that is kept, to be put back; those with more are quantised weights."""
_PLAIN = (bool, int, float, str, type(None))


class Drawn:
    """How far torch's generators for a device, Python's and NumPy's have come."""

    def __init__(self, device: torch.device):
        self._device = device
        self._host = torch.get_rng_state()
        self._on_device: Any = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._python = random.getstate()
        numpy = sys.modules.get("numpy")
        self._numpy: Any = None if numpy is None else numpy.random.get_state()

    def is_now(self) -> bool:
        """Whether nothing was drawn since."""
        now = Drawn(self._device)
        on_device = self._on_device is now._on_device or torch.equal(self._on_device, now._on_device)
        same = torch.equal(self._host, now._host) and on_device and self._python == now._python
        return same and (self._numpy is None or _comparable(self._numpy) == _comparable(now._numpy))

    def again(self) -> None:
        """What is drawn from now on is what was drawn then."""
        torch.set_rng_state(self._host)
        if self._on_device is not None:
            torch.cuda.set_rng_state(self._on_device, self._device)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)


def _comparable(state: Any) -> tuple[Any, ...]:
    return tuple(part.tobytes() if hasattr(part, "tobytes") else part for part in state)


@contextmanager
def leaving_no_trace(module: nn.Module) -> Iterator[None]:
    """Within, passes of `module` with gradients are trials: afterwards generators, buffers and plain attributes are as
    before. Re-entrant checkpoints, which take part in a whole backward pass alone, are off."""
    parts: list[Any] = list(module.modules())
    drawn = Drawn(next(module.parameters()).device)
    buffers = [
        (part, name, buffer, _version(buffer), buffer.clone())
        for part in parts
        for name, buffer in part._buffers.items()
        if buffer is not None and (buffer.is_floating_point() or buffer.numel() <= MOST_INTEGERS)
    ]
    noted = [
        (vars(part), {name: value for name, value in vars(part).items() if type(value) in _PLAIN}) for part in parts
    ]
    checkpointed = [part for part in parts if getattr(part, "gradient_checkpointing", False)]
    for part in checkpointed:
        part.gradient_checkpointing = False
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        drawn.again()
        _put_back(buffers)
        for attributes, before in noted:
            for name in [name for name, value in attributes.items() if type(value) in _PLAIN and name not in before]:
                del attributes[name]
            attributes.update({name: value for name, value in before.items() if name in attributes})
        for part in checkpointed:
            part.gradient_checkpointing = True


@torch.no_grad()
def _put_back(buffers: list[tuple[Any, str, Tensor, int, Tensor]]) -> None:
    for part, name, buffer, version, before in buffers:
        if name in part._buffers:
            part._buffers[name] = buffer
        if _version(buffer) != version:
            buffer.copy_(before)


def _version(buffer: Tensor) -> int:
    return 0 if buffer.is_inference() else buffer._version
