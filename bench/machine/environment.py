"""Where a run is measured: device, driver, libraries, code. This process never touches CUDA, which survives no fork."""

import importlib.metadata
import importlib.util
import itertools
import os
import platform
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil

from bench.errors import UsageError
from bench.machine.cores import usable_cores
from bench.machine.nvml import asked, device_handle
from bench.results.schema import Environment

LIBRARIES = ("torch", "transformers", "numpy", "safetensors", "pydantic", "nvidia-ml-py", "gram-bench")
_ASK_TORCH = "import torch; print(torch.cuda.get_device_properties(0).uuid, torch.cuda.get_device_name(0), sep='\\n')"
_ASK_TIMEOUT_S = 120


def resolve_device(requested: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """The kind of device to measure on: auto is CUDA where there is a usable GPU.

    Raises UsageError, saying what is missing, where CUDA is asked for and can't be had.
    """
    if requested == "cpu":
        return "cpu"
    obstacle = cuda_obstacle()
    if obstacle is None:
        return "cuda"
    if requested == "cuda":
        raise UsageError(
            f"no CUDA device can be used: {obstacle}; choose --device cpu, or mend it (gram-bench doctor)."
        )
    return "cpu"


def cuda_obstacle() -> str | None:
    """Why CUDA can't be used here, None where it can; asks driver and files, not CUDA."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    if torch_cuda_version() is None:
        return f"the installed torch {library_versions().get('torch', '')} is built without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    if not gpu_uuids():
        return "the NVIDIA driver reports no GPU"
    return None


def torch_cuda_version() -> str | None:
    """The CUDA version that the installed torch is built for, None for a build without; read without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = importlib.util.spec_from_file_location("_torch_version", Path(spec.origin).parent / "version.py")
    if version is None or version.loader is None:
        return None
    module = importlib.util.module_from_spec(version)
    version.loader.exec_module(module)
    found = getattr(module, "cuda", None)
    return None if found is None else str(found)


def gpu_uuids() -> tuple[str, ...]:
    """UUIDs of every GPU that the driver shows, in the driver's order; empty without driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return ()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def visible_gpus() -> int:
    """How many GPUs CUDA shows to this process: CUDA_VISIBLE_DEVICES chooses, up to its first entry that is none."""
    uuids = gpu_uuids()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return len(uuids)
    entries = [entry.strip() for entry in chosen.split(",")]
    return len(list(itertools.takewhile(lambda entry: _names_gpu(entry, uuids), entries)))


def _names_gpu(entry: str, uuids: tuple[str, ...]) -> bool:
    if entry.isdigit():
        return int(entry) < len(uuids)
    return entry.startswith("MIG-") or (entry.startswith("GPU-") and any(uuid.startswith(entry) for uuid in uuids))


def device_uuid() -> str | None:
    """The GPU that torch calls cuda:0. Where there are several, torch is asked in a process of its own."""
    uuids = gpu_uuids()
    if len(uuids) <= 1:
        return uuids[0] if uuids else None
    answer = _output([sys.executable, "-c", _ASK_TORCH], timeout_s=_ASK_TIMEOUT_S)
    if answer is None:
        return None
    bare = answer.splitlines()[0].removeprefix("GPU-")
    return next((uuid for uuid in uuids if uuid.endswith(bare)), bare)


def describe(device_kind: Literal["cpu", "cuda"]) -> Environment:
    """The facts of this machine for a run on `device_kind`; what it does not tell is None."""
    processor = cpu_model()
    host: dict[str, Any] = {
        "cpu": processor,
        "cpu_cores": usable_cores(),
        "host_memory_bytes": psutil.virtual_memory().total,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": library_versions(),
        **_git_facts(Path(__file__).resolve().parents[2]),
    }
    if device_kind == "cpu":
        return Environment(device=processor, device_kind="cpu", **host)
    return Environment(device_kind="cuda", **_gpu_facts(device_uuid()), **host)


def _gpu_facts(uuid: str | None) -> dict[str, Any]:
    if uuid is None:
        return {"device": "unknown CUDA device"}
    with device_handle(uuid) as opened:
        if opened is None:
            return {"device": "unknown CUDA device", "device_uuid": uuid}
        nvml, ask = opened[0], partial(asked, opened)
        memory, limit = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetEnforcedPowerLimit")
        driver = None
        with suppress(nvml.NVMLError):
            driver = nvml.nvmlSystemGetDriverVersion()
        return {
            "device": _text(ask("nvmlDeviceGetName") or "unknown CUDA device"),
            "device_uuid": uuid,
            "device_memory_bytes": None if memory is None else int(memory.total),
            "driver": None if driver is None else _text(driver),
            "clocks_mhz": {
                "sm_now": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
                "sm_max": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
                "memory_now": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
                "memory_max": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
            },
            "power_limit_w": None if limit is None else limit / 1000,
        }


def library_versions() -> dict[str, str]:
    """Installed versions of what the numbers depend on, read without importing any of it."""
    versions = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    cuda = torch_cuda_version()
    if cuda is not None:
        versions["cuda"] = cuda
    return versions


def cpu_model() -> str:
    """The processor as its maker calls it, or its architecture where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    if sys.platform == "darwin":
        brand = _output(["sysctl", "-n", "machdep.cpu.brand_string"], timeout_s=5)
        if brand:
            return brand
    return platform.processor() or platform.machine() or "unknown processor"


def _git_facts(root: Path) -> dict[str, Any]:
    """The commit this program runs from, and whether tracked files differ; None outside a checkout of its own."""
    top = _output(["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"], timeout_s=10)
    if top is None or len(top.splitlines()) != 2 or Path(top.splitlines()[0]).resolve() != root:
        return {"git_sha": None, "git_dirty": None}
    changes = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"], timeout_s=10)
    return {"git_sha": top.splitlines()[1], "git_dirty": None if changes is None else bool(changes)}


def _output(command: list[str], timeout_s: float) -> str | None:
    """What a command printed, None where it failed."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
