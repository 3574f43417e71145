"""Whether several workers fit into memory together: what each was seen to need, and what is free."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.machine.nvml import device_handle
from bench.results.schema import Record

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
        if opened is None:
            return None
        nvml, handle = opened
        try:
            return int(nvml.nvmlDeviceGetMemoryInfo(handle).free)
        except nvml.NVMLError:
            return None
