"""Reads a trace of torch's profiler: which kernels ran, and in which phase of a step each was launched.

Times in seconds. The trace is the Chrome format that `torch.profiler` exports: kernels carry the correlation number of
the call that launched them, phases are annotations of the host.
"""

import json
import math
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gram_core.phases import PREFIX

MICROSECOND = 1e-6
WORK = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")


@dataclass(frozen=True)
class Kernel:
    """All runs of one kernel (on a CPU: of one operator)."""

    name: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class Trace:
    """What a trace says. On a CPU `device_s` and `idle_s` are None, kernels are operators, and phases are host time.

    device_s: time in which the device ran anything; phases and kernels may overlap and add up to more. idle_s: time
    between its first and its last work in which it ran nothing; a host that is traced launches later than one that is
    not, so that this is more than there would be.
    """

    phases_s: dict[str, float]
    kernels: tuple[Kernel, ...]
    device_s: float | None
    idle_s: float | None


def read_trace(path: Path) -> Trace:
    """The phases and kernels of a Chrome trace file."""
    events = [event for event in json.loads(path.read_text(encoding="utf-8"))["traceEvents"] if event.get("ph") == "X"]
    annotations = sorted(
        (event for event in events if event.get("cat") == "user_annotation" and event["name"].startswith(PREFIX)),
        key=lambda event: event["ts"],
    )
    work = [event for event in events if event.get("cat") in WORK]
    if not work:
        return Trace(_host_phases(annotations), _operators(events), None, None)
    launched = {event["args"]["correlation"]: event["ts"] for event in events if event.get("cat") in LAUNCHES}
    phases: dict[str, float] = defaultdict(float)
    for event in work:
        moment = launched.get(event.get("args", {}).get("correlation"))
        name = _phase_at(annotations, moment) if moment is not None else None
        phases[name or "outside"] += event["dur"] * MICROSECOND
    covered = _covered(work)
    span = max(event["ts"] + event["dur"] for event in work) - min(event["ts"] for event in work)
    return Trace(dict(phases), _table(work, "dur"), covered * MICROSECOND, (span - covered) * MICROSECOND)


def _covered(events: list[dict[str, Any]]) -> float:
    """Time in which any of these runs: streams overlap."""
    covered, until = 0.0, -math.inf
    for event in sorted(events, key=lambda event: event["ts"]):
        stop = event["ts"] + event["dur"]
        covered += max(0.0, stop - max(until, event["ts"]))
        until = max(until, stop)
    return covered


def _phase_at(annotations: list[dict[str, Any]], moment: float) -> str | None:
    """The innermost phase that is open at a moment; phases nest at most a few deep."""
    position = bisect_right([event["ts"] for event in annotations], moment)
    for event in reversed(annotations[max(0, position - 8) : position]):
        if moment <= event["ts"] + event["dur"]:
            return str(event["name"].removeprefix(PREFIX))
    return None


def _host_phases(annotations: list[dict[str, Any]]) -> dict[str, float]:
    """Host time of each phase, that of phases within it taken off."""
    phases: dict[str, float] = defaultdict(float)
    open_: list[tuple[str, float]] = []
    for event in annotations:
        name, stop = event["name"].removeprefix(PREFIX), event["ts"] + event["dur"]
        while open_ and open_[-1][1] <= event["ts"]:
            open_.pop()
        phases[name] += event["dur"] * MICROSECOND
        if open_:
            phases[open_[-1][0]] -= event["dur"] * MICROSECOND
        open_.append((name, stop))
    return dict(phases)


def _operators(events: list[dict[str, Any]]) -> tuple[Kernel, ...]:
    """Operators with their own time: that of operators within them taken off, per thread."""
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    operators.sort(key=lambda event: (event["tid"], event["ts"], -event["dur"]))
    open_: list[dict[str, Any]] = []
    for event in operators:
        event["own"] = event["dur"]
        while open_ and (open_[-1]["tid"] != event["tid"] or open_[-1]["ts"] + open_[-1]["dur"] <= event["ts"]):
            open_.pop()
        if open_:
            open_[-1]["own"] -= event["dur"]
        open_.append(event)
    return _table(operators, "own")


def _table(events: list[dict[str, Any]], duration: str) -> tuple[Kernel, ...]:
    calls: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        calls[event["name"]] += 1
        seconds[event["name"]] += event[duration] * MICROSECOND
    return tuple(sorted((Kernel(n, calls[n], seconds[n]) for n in calls), key=lambda kernel: -kernel.seconds))
