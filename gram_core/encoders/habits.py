"""Is what a model makes of texts a function of them and of its weights alone?

Some draw random numbers, besides those of dropout: layers that are left out, noise on embeddings. Some note down what
they see and read it in the next pass: running means, power iterations, counts of calls.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gram_core.batch import Texts
from gram_core.encoders._traces import Drawn, leaving_no_trace
from gram_core.encoders.proof import NARROW, ROUNDING, Encode


@dataclass(frozen=True)
class Habits:
    """draws: whether passes draw random numbers. keeps: in a few words, what makes a pass another one than the pass
    before of the same texts, so that how often the model is called counts; None: nothing."""

    draws: bool
    keeps: str | None


def habits(own: Encode, module: nn.Module, texts: Texts, amp_dtype: torch.dtype | None = None) -> Habits:
    """Of an encoder's own pass of `module`, in the mode that it is in; leaves no trace."""
    device = next(module.parameters()).device
    with (
        leaving_no_trace(module),
        torch.autocast(device.type, amp_dtype or torch.bfloat16, enabled=amp_dtype is not None),
    ):
        start = Drawn(device)
        first = own(texts).detach()
        draws = not start.is_now()
        start.again()
        versions = _versions(module)
        second = own(texts).detach()
        written = [name for name, version in _versions(module).items() if versions.get(name, version) != version]
    if written:
        return Habits(draws, f"each pass writes to {written[0]}, so that the number of calls counts")
    allowed = NARROW if amp_dtype is not None else ROUNDING.get(first.dtype, NARROW)
    if not float((first - second).norm()) <= allowed * float(first.norm()):
        return Habits(draws, "a pass leaves other encodings than the one before, so that the number of calls counts")
    return Habits(draws, None)


def _versions(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Which tensor each parameter and buffer is, and how often it was written to."""
    named: list[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    return {name: (id(tensor), 0 if tensor.is_inference() else tensor._version) for name, tensor in named}
