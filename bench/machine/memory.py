"""Peak memory of the measuring process.

`torch.cuda.max_memory_allocated` after a reset misses a captured graph's private pool, so nothing is ever reset:
a fresh process per measurement makes "since process start" the peak that is wanted.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.machine import nvml
from bench.results.schema import PeakMemory

if TYPE_CHECKING:
    import torch

    from gram_core.training import Training


def peak_memory(device: torch.device) -> PeakMemory:
    """The peaks since process start, in bytes; None where the device does not tell.

    On a GPU `process` is what the driver counts now, which is a peak as well: the allocator has given nothing back.
    """
    if device.type != "cuda":
        return PeakMemory(process=resident_peak_bytes())
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return PeakMemory(
        allocated=torch.cuda.max_memory_allocated(device),
        reserved=torch.cuda.max_memory_reserved(device),
        process=None if uuid is None else nvml.process_bytes(str(uuid), os.getpid()),
    )


def fixed_bytes(training: Training) -> int:
    """Bytes of weights, buffers and optimizer state, whatever the batch; what shares memory counts once."""
    import torch

    held: dict[int, int] = {}
    for part in (training.encoder, training.cf_module):
        tensors = [*part.parameters(), *(part.buffers() if isinstance(part, torch.nn.Module) else ())]
        held |= {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
    for optimizer in (training.optimization.encoder_optimizer, training.optimization.cf_optimizer):
        for state in optimizer.state.values() if optimizer is not None else ():
            held |= {kept.data_ptr(): kept.nbytes for kept in state.values() if isinstance(kept, torch.Tensor)}
    return sum(held.values())


def reserved_bytes(device: torch.device) -> int:
    """What the allocator has asked the driver for so far: grows while batches of new sizes still find no room."""
    if device.type != "cuda":
        return 0
    import torch

    return torch.cuda.memory_reserved(device)


def resident_peak_bytes() -> int | None:
    """The most main memory this process ever had resident.

    From the kernel's VmHWM where there is one: the figure of getrusage outlives an exec, this one does not.
    """
    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        match = None
    if match:
        return int(match[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
