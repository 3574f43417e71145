"""`auc`: a right candidate above a wrong one, of items that training has met; per impression in ranking."""

from bench.metrics._auc import mean_auc
from bench.metrics._base import Judged
from bench.workloads._base import Task

TASKS: tuple[Task, ...] = ("ranking", "response")


def value(judged: Judged) -> float | None:
    """0.5 is chance."""
    return mean_auc(judged.warm)
