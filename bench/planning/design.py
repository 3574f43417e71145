"""The few steps that a calibration measures: sizes, lengths, ratios and methods that tell the terms of a cost apart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.configuration.sweep import MethodLine, WorkItem
from bench.workloads import _base as workloads
from bench.workloads import synthetic
from bench.workloads._base import Task

CATALOGUE = 4096
"""Items of the texts that are stepped on: few, so that they are drawn at once."""


@dataclass(frozen=True)
class Probe:
    """A step by its part of the largest step's tokens, its text length in parts of the case's, its ratio."""

    method: str
    share: float
    length: float
    ratio: float
    steps: int | None = None


PROBES: Sequence[Probe] = (
    Probe("single_step", 1 / 16, 1.0, 2.0),
    Probe("e2e", 1 / 8, 0.25, 1.0),
    Probe("multi_step", 1 / 8, 1.0, 2.0, steps=3),
    Probe("single_step", 1 / 4, 0.5, 4.0),
    Probe("e2e", 1 / 4, 2.0, 2.0),
    Probe("single_step", 1 / 2, 0.25, 8.0),
    Probe("multi_step", 1 / 4, 0.5, 4.0, steps=2),
    Probe("e2e", 1 / 2, 1.0, 1.0),
    Probe("single_step", 1.0, 1.0, 2.0),
)


def item_of(
    probe: Probe, case: Case, engine: str, tokens: float, longest: int, candidates: int, task: Task
) -> WorkItem:
    """The probe as a case of random texts. tokens: of the largest step; longest: what the encoder's positions allow."""
    text_length = max(8, min(round(case.text_length * probe.length), longest))
    texts = max(4.0, min(probe.share * tokens / text_length, CATALOGUE / 2))
    slots = texts if probe.method == "e2e" else texts * probe.ratio
    least = max(2, round(probe.ratio))
    shown = candidates if task == "ranking" else 0
    per_user = max(shown + 2, min(case.history_length + shown, int(slots / least)))
    users = max(least, round(slots / per_user))
    sized = replace(
        case,
        workload="synthetic",
        batch_size=users,
        history_length=per_user - shown,
        text_length=text_length,
        item_repetition_ratio=probe.ratio,
        world_size=1,
        deduplicate="local",
    )
    return WorkItem(sized, MethodLine(probe.method, engine, probe.steps))


def configuration(config: Config, budget_s: float) -> Config:
    """The user's configuration with short measurements on random texts; method tables are left out, so that a probe is
    what it says."""
    run = config.run.model_copy(
        update={
            "samples": 4,
            "min_samples": 1,
            "window_s": 0.05,
            "window_steps": None,
            "min_warmup_steps": 1,
            "max_warmup_steps": 12,
            "budget_s": budget_s,
            "blocks": 1,
            "canary": False,
        }
    )
    settings = synthetic.Settings(items=CATALOGUE)
    return config.model_copy(update={"run": run, "workload": {"synthetic": settings}, "method": {}})


def check(item: WorkItem, config: Config, task: Task) -> None:
    """Raises ValueError where random texts cannot be this case."""
    axes = workloads.axes_of(item.case, config.model.candidates, task)
    synthetic.check(config.workload["synthetic"], axes)
