"""Measurements small enough for a test: the tiny shape on synthetic batches, with windows of a millisecond."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.configuration.case import Case
from bench.configuration.config import Config, ModelSettings, RunSettings
from bench.configuration.sweep import MethodLine, WorkItem
from bench.results import store
from bench.results.schema import Environment, RunInfo
from bench.running import manager, paired
from bench.running.events import Finished, Planned

os.environ["OMP_NUM_THREADS"] = "1"  # for workers: their fork server starts later; small steps gain nothing from more

FAULTY = "tests.bench.faulty_methods"

CASE = Case(
    workload="synthetic",
    encoder="shape:tiny",
    layers=None,
    batch_size=2,
    history_length=7,
    text_length=8,
    item_repetition_ratio=2.0,
    precision="float32",
)
SLOTS = 2 * (7 + 5)
"""Item slots of a batch of `CASE`."""
AMPLE = 4.0


def item(method: str, *, accumulation_steps: int | None = None, block: int = 0, **axes: Any) -> WorkItem:
    """`CASE` with some axes replaced, for one method."""
    case = Case(**{**CASE.axes(), **axes})  # type: ignore[arg-type]
    return WorkItem(case, MethodLine(method, "eager", accumulation_steps), block)


def config(method: dict[str, dict[str, Any]] | None = None, **run: Any) -> Config:
    """A configuration that measures quickly, with the faulty methods plugged in."""
    quick: dict[str, Any] = {
        "device": "cpu",
        "samples": 3,
        "window_s": 0.001,
        "max_warmup_steps": 3,
        "budget_s": 5.0,
        "timeout_s": 300.0,
        "plugins": [FAULTY],
    }
    return Config(run=RunSettings(**{**quick, **run}), model=ModelSettings(), method=method or {})


@dataclass(frozen=True)
class Counts:
    """What a call did, by its events. recorded: measurements that a former call had left on the disk."""

    outcomes: Counter[str]
    recorded: int

    @property
    def total(self) -> int:
        """Measurements that the call recorded."""
        return self.outcomes.total()


def run(settings: Config, run_dir: Path, items: Sequence[WorkItem], **injected: Any) -> tuple[Counts, list, tuple]:
    """Counts, events and the records that are on the disk afterwards; injected: as of `paired.run`."""
    events: list = []
    (paired.run if injected else manager.run)(settings, run_dir, items, events.append, **injected)
    outcomes = Counter(event.record.outcome for event in events if isinstance(event, Finished))
    (planned,) = (event for event in events if isinstance(event, Planned))
    return Counts(outcomes, planned.recorded), events, store.load(run_dir).records


def ample_s(base: Path) -> float:
    """Seconds that a worker does not take on this machine, as busy as it is now: what one takes, several times over.

    For tests that wait for a worker's timeout beside workers that must not run into it.
    """
    settings = config()
    run_dir = new_run(base, settings)
    manager.run(settings, run_dir, [item("raises")], lambda _: None)  # whatever starts with a session's first worker
    began = time.monotonic()
    manager.run(settings, run_dir, [item("e2e")], lambda _: None)
    return 1.0 + AMPLE * (time.monotonic() - began)


def new_run(base: Path, settings: Config, planned: int = 1) -> Path:
    """A run directory with its `run.json`, as the command line leaves it before the first measurement."""
    run_dir = store.create_run_dir(base)
    environment = Environment(
        device="a test's", device_kind="cpu", cpu="a test's", cpu_cores=2, host_memory_bytes=0, os="any", python="3"
    )
    info = RunInfo(
        run_id=run_dir.name,
        started_at="2026-01-01T00:00:00Z",
        command=("gram-bench", "run"),
        preset="smoke",
        config=settings.model_dump(mode="json"),
        environment=environment,
        planned_records=planned,
    )
    store.write_info(run_dir, info)
    return run_dir
