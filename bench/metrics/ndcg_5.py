"""`ndcg_5`: discounted gain of the first 5 candidates over the best possible, the mean over impressions."""

from functools import partial

from sklearn.metrics import ndcg_score

from bench.metrics._base import Judged, mean_over_rankings
from bench.workloads._base import Task

TASKS: tuple[Task, ...] = ("ranking",)


def value(judged: Judged) -> float | None:
    """1 where every right candidate is first; ties are averaged over."""
    return mean_over_rankings(judged.warm, partial(ndcg_score, k=5))
