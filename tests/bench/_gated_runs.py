"""Recorded runs for the gate: blocks drawn around a known speed-up, written as the runner writes them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.results.schema import PeakMemory, Record, RunInfo, Spread, Telemetry
from tests.reports import _runs

MIB = 1024**2
PEAK = 4000 * MIB
ROUNDS = 8
STEADY = Telemetry(sm_clock_mhz=Spread(min=1965, median=1980, max=1980), foreign_processes=0)


def blocks(
    method: str,
    seconds: float,
    *,
    ratio: float = 8.0,
    count: int = 6,
    replica: int = 0,
    noise: float = 0.002,
    seed: int = 0,
    allocated: int | None = PEAK,
    process: int | None = PEAK,
    **changes: Any,
) -> list[Record]:
    """A line's records: every process has a speed of its own, every sample some noise."""
    dice = random.Random(f"{method} {ratio} {replica} {seed}")
    records = []
    for block in range(count):
        own = seconds * math.exp(dice.gauss(0, noise))
        values: dict[str, Any] = {
            "samples_s": tuple(own * math.exp(dice.gauss(0, noise)) for _ in range(ROUNDS)),
            "rounds": tuple(range(ROUNDS)),
            "schedule": "interleaved",
            "replica": replica,
            "peak_memory_bytes": PeakMemory(allocated=allocated, reserved=allocated, process=process),
        }
        if changes.get("outcome", "ok") != "ok":
            values = {"replica": replica}
        records.append(_runs.record(method, ratio=ratio, block=block, **(values | changes)))
    return records


def case(
    speed_up: float = 4.0, *, ratio: float = 8.0, seed: int = 0, canary: float | None = 1.0, **of_method: Any
) -> list[Record]:
    """e2e, its canary replica so many times as slow, and single_step."""
    shared = {name: of_method[name] for name in ("count", "noise") if name in of_method}
    records = blocks("e2e", 0.1, ratio=ratio, seed=seed, **shared)
    if canary is not None:
        records += blocks("e2e", 0.1 * canary, ratio=ratio, seed=seed, replica=1, **shared)
    return records + blocks("single_step", 0.1 / speed_up, ratio=ratio, seed=seed, **of_method)


def info(device_kind: str = "cuda", gate: dict[str, Any] | None = None, **of_environment: Any) -> RunInfo:
    """A header with a `[gate]` of its own; nothing can be measured further, since no such machine is here."""
    header = _runs.info()
    place = header.environment.model_copy(update={"device_kind": device_kind, **of_environment})
    return header.model_copy(
        update={"environment": place, "config": {**header.config, "gate": gate if gate is not None else {}}}
    )


def write(base: Path, records: Iterable[Record], header: RunInfo | None = None) -> Path:
    """A run directory."""
    return _runs.write(base, list(records), header or info())


def floor(at_least: float, **conditions: Any) -> dict[str, Any]:
    """A `[gate]` with one floor for single_step."""
    return {"floor": [{"method": "single_step", "at_least": at_least, **conditions}]}
