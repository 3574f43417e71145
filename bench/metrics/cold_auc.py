"""`cold_auc`: the same of items that training has never met; a model without content has 0.5."""

from bench.metrics._auc import mean_auc
from bench.metrics._base import Judged
from bench.workloads._base import Task

TASKS: tuple[Task, ...] = ("ranking", "response")


def value(judged: Judged) -> float | None:
    """0.5 is chance; None where no cold item was held out."""
    return mean_auc(judged.cold)
