"""NVIDIA's management library, asked by UUID and never by index; what a device does not tell is None."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def device_handle(uuid: str) -> Iterator[tuple[Any, Any] | None]:
    """The library and the device's handle in it, while open; None where there is no driver or no such device.

    uuid: with or without its "GPU-" in front, as torch and nvidia-smi write it.
    """
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        except pynvml.NVMLError:
            yield None
        else:
            yield pynvml, handle
    finally:
        pynvml.nvmlShutdown()


def process_bytes(uuid: str, pid: int) -> int | None:
    """Device memory that the driver counts for process `pid`.

    None where the driver does not say, or knows the process by another number (a container's own numbering).
    """
    with device_handle(uuid) as opened:
        processes = asked(opened, "nvmlDeviceGetComputeRunningProcesses")
        return next((process.usedGpuMemory for process in processes or () if process.pid == pid), None)


def asked(opened: tuple[Any, Any] | None, question: str, *arguments: Any) -> Any:
    """What an open device answers; None where it does not tell, or is not there."""
    if opened is None:
        return None
    nvml, handle = opened
    try:
        return getattr(nvml, question)(handle, *arguments)
    except (nvml.NVMLError, AttributeError):
        return None
