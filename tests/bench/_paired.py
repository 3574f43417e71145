"""Paired blocks small enough for a test: two lines of `CASE` over real processes, and what is asked of their events."""

from collections.abc import Sequence

from bench.configuration.config import Config, Sweep
from bench.configuration.sweep import MethodLine, WorkItem
from bench.machine.memory import Room
from tests.bench._small_runs import CASE, config

PLUGINS = ["tests.bench.faulty_methods", "tests.bench.paired_methods"]
E2E, CANARY, SINGLE_STEP = ("e2e", 0), ("e2e", 1), ("single_step", 0)
PAIR = (E2E, SINGLE_STEP)


def settings(method=None, **run) -> Config:
    """Two blocks, of two rounds, and no more."""
    quick = {"blocks": 2, "max_blocks": 2, "rounds": 2, "min_samples": 1, "plugins": PLUGINS, "budget_s": 20.0}
    return config(method, **{**quick, **run})


def items(lines: Sequence[tuple[str, int]] = PAIR, blocks: int = 2) -> list[WorkItem]:
    return [
        WorkItem(CASE, MethodLine(method, "eager"), block, replica)
        for block in range(blocks)
        for method, replica in lines
    ]


def of(events: list, kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def short(records) -> list[tuple[str, int, int, str]]:
    return [(record.method, record.replica, record.block, record.outcome) for record in records]


def no_room() -> Room:
    return Room(host=1)


def sweep_of(*methods: str) -> Sweep:
    axes = {"layers": "all"} | {axis: value for axis, value in CASE.axes().items() if value is not None}
    return Sweep.model_validate(axes | {"method": list(methods)})
