"""`mrr`: one over the rank of the clicked candidate, the mean over impressions; ties rank it last among them."""

from __future__ import annotations

from sklearn.metrics import label_ranking_average_precision_score

from bench.metrics._base import Judged, mean_over_rankings
from bench.workloads._base import Task

TASKS: tuple[Task, ...] = ("ranking",)


def value(judged: Judged) -> float | None:
    """With one right candidate, label ranking average precision is the reciprocal rank."""
    return mean_over_rankings(judged.warm, label_ranking_average_precision_score)
