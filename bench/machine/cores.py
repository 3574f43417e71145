"""How many processor cores this process may really use, how many threads it computes with, and what they can do."""

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CPUINFO = Path("/proc/cpuinfo")
_BF16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
"""What Linux calls instructions that multiply bf16; the last one on Arm."""


def usable_cores(quota_file: Path = _QUOTA) -> int:
    """Cores of this process's affinity, less where its control group has a smaller quota; at least 1.

    More threads than that would wait for each other, and the machine's count says nothing inside a container.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def compute_threads(device: str) -> int:
    """Threads that a measurement computes with: all usable cores, or what OMP_NUM_THREADS says if that is fewer.

    Beside a GPU one: the host's share of a step is many small operations, which more threads hardly hasten.
    On a machine whose cores others use as well, threads wait for their descheduled siblings at every operation, and a
    step takes a hundred times as long: there, fewer threads measure better.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    usable = usable_cores() if device == "cpu" else 1
    return min(usable, int(asked)) if asked.isdigit() and int(asked) else usable


def multiplies_bf16(cpuinfo_file: Path = _CPUINFO) -> bool | None:
    """Whether the processor has instructions for products of bf16; None where the system does not tell."""
    try:
        lines = cpuinfo_file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    flags = [
        line.partition(":")[2].split() for line in lines if line.partition(":")[0].strip() in ("flags", "Features")
    ]
    return bool(_BF16.intersection(flags[0])) if flags else None
