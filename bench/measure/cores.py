"""How many processor cores this process may really use, and how many threads it computes with."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


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
