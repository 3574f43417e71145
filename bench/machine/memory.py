"""Memory: peaks of the measuring process, and whether several workers that live at once have room for theirs.

`torch.cuda.max_memory_allocated` after a reset misses a captured graph's private pool, so nothing is ever reset:
a fresh process per measurement makes "since process start" the peak that is wanted.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench.machine import nvml
from bench.machine.nvml import asked, device_handle
from bench.results.schema import PeakMemory, Record

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


HOST_SHARE, DEVICE_SHARE = 0.8, 0.9
"""Of what is free, how much may be planned for: batches vary, allocators break up, and others use the host as well."""
CUDA_CONTEXT_BYTES = 700 * 2**20
"""A process on a GPU before its first tensor: context and kernels. Used where the driver does not tell the whole."""

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Room:
    """Bytes of main memory and on the device: what a worker needs, or what is free. None where it is not known."""

    host: int | None = None
    device: int | None = None


def needed(record: Record) -> Room | None:
    """What a measured worker took at its peak; None where the record does not tell."""
    peak = record.peak_memory_bytes
    on_host = record.detail.resident_peak_bytes
    if peak.reserved is not None:
        return Room(on_host, max(peak.process or 0, peak.reserved + CUDA_CONTEXT_BYTES))
    if record.ranks and on_host is not None:
        return Room(on_host, 0)  # of all its processes; the peak is that of the largest
    return None if peak.process is None else Room(peak.process, 0)


def fit(needs: Iterable[Room | None], free: Room) -> bool:
    """Whether all of them may be in memory at once. What is not known does not fit."""
    needs = tuple(needs)
    if any(need is None for need in needs):
        return False
    return all(
        not total or (available is not None and total <= share * available)
        for total, available, share in (
            (sum(need.host or 0 for need in needs if need), free.host, HOST_SHARE),
            (sum(need.device or 0 for need in needs if need), free.device, DEVICE_SHARE),
        )
    )


def free(device_uuid: str | None) -> Room:
    """What is free now, of the control group's limit where that is less; device_uuid: None on a processor."""
    return Room(min([psutil.virtual_memory().available, *_group_limits()]), _device_free(device_uuid))


def _group_limits(root: Path = _CGROUP) -> list[int]:
    """Bytes that this process's control group still lets it take; none where there is no limit."""
    limits = []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            limits.append(max(0, int((root / limit).read_text()) - int((root / used).read_text())))
    return limits


def _device_free(uuid: str | None) -> int | None:
    if uuid is None:
        return None
    with device_handle(uuid) as opened:
        memory = asked(opened, "nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.free)
