"""Names for the phases of a step, so that a profiler can tell where its time goes.

A phase is a range of torch's profiler; without a profiler it costs about a microsecond.
"""

from contextlib import AbstractContextManager
from typing import Literal

from torch.profiler import record_function

Phase = Literal["host", "ce_forward", "cf", "backward", "ce_backward", "optimizer"]
PHASES: dict[Phase, str] = {
    "host": "deduplication, packing, copies",
    "ce_forward": "content encoder, forward",
    "cf": "CF module, forward and backward",
    "backward": "CF module and content encoder, backward in one graph",
    "ce_backward": "content encoder, backward (recomputed forward included)",
    "optimizer": "clipping, optimizers, schedulers",
}
PREFIX = "gram_core."


def phase(name: Phase) -> AbstractContextManager[object]:
    """Marks what runs within as a phase of the step."""
    return record_function(PREFIX + name)
