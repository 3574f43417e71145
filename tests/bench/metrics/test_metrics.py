"""Metrics against scikit-learn one ranking at a time, and against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, roc_auc_score

from bench import registry
from bench.metrics import _base as metrics
from bench.metrics._base import Judged, Rankings
from bench.processes.failures import NonFiniteLoss
from bench.training.judging import judged
from bench.workloads._base import Scored
from gram_core.batch import Batch

NAMES = registry.names(metrics.PACKAGE)
NOTHING = Judged((), ())


def rankings(rows: list[tuple[list[int], list[float]]]) -> Rankings:
    return Rankings(np.array([row[0] for row in rows], dtype=bool), np.array([row[1] for row in rows], dtype=float))


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_bounded_rises_with_quality_and_knows_nothing_of_nothing(name):
    module = metrics.load(name)
    right = rankings([([0, 1, 0], [0.1, 0.9, 0.3]), ([1, 0, 0], [2.0, 1.0, 0.0])])
    wrong = Rankings(right.relevant, -right.scores)
    best, worst = (module.value(Judged((side,), (side,))) for side in (right, wrong))
    assert best == 1.0
    assert 0.0 <= worst < best
    assert module.value(NOTHING) is None
    assert module.value(Judged((rankings([([1, 1], [0.0, 1.0])]),), ())) is None, "nothing wrong, no order"
    assert set(module.TASKS) <= {"ranking", "response"}


@settings(max_examples=25)
@given(st.integers(2, 6), st.lists(st.integers(0, 3), min_size=12, max_size=12), st.integers(0, 2**16))
def test_they_are_scikit_learns_with_ties_too(candidates, draws, seed):
    rng = np.random.default_rng(seed)
    scores = np.resize(np.array(draws, dtype=float), (8, candidates))
    relevant = np.arange(candidates) == rng.integers(candidates, size=8)[:, None]
    warm = Judged((Rankings(relevant[:5], scores[:5]), Rankings(relevant[5:], scores[5:])), ())
    auc = np.mean([roc_auc_score(row, own) for row, own in zip(relevant, scores, strict=True)])
    assert metrics.load("auc").value(warm) == pytest.approx(auc)
    assert metrics.load("ndcg_5").value(warm) == pytest.approx(ndcg_score(relevant, scores, k=5))
    mrr = label_ranking_average_precision_score(relevant, scores)
    assert metrics.load("mrr").value(warm) == pytest.approx(mrr, rel=1e-12, abs=0)
    pooled = Judged((Rankings(relevant.reshape(1, -1), scores.reshape(1, -1)),), ())
    assert metrics.load("auc").value(pooled) == pytest.approx(roc_auc_score(relevant.ravel(), scores.ravel()))


def test_ranks_by_hand():
    """Third of four: one negative below it of three, a third of the reciprocal rank, 1 / log2(4) of the gain."""
    one = Judged((rankings([([0, 0, 1, 0], [0.9, 0.8, 0.7, 0.1])]),), ())
    assert metrics.measured(one, "ranking") == pytest.approx(
        {"auc": 1 / 3, "cold_auc": None, "mrr": 1 / 3, "ndcg_5": 0.5, "ndcg_10": 0.5}
    )
    assert set(metrics.measured(one, "response")) == {"auc", "cold_auc"}


def test_among_equal_scores_the_clicked_candidate_stands_last():
    """A model that says the same of all candidates would otherwise be perfect."""
    tied = Judged((rankings([([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]), ([0, 1, 0, 0], [0.9, 0.7, 0.7, 0.1])]),), ())
    assert metrics.load("mrr").value(tied) == (1 / 4 + 1 / 3) / 2


def test_several_right_candidates_are_averaged_as_scikit_learn_does():
    """Ranks alone are for one right candidate; one impression with more must not be taken for that."""
    relevant = np.array([[1, 1, 0, 0], [0, 0, 1, 0]], dtype=bool)
    scores = np.array([[0.1, 0.9, 0.9, 0.3], [0.4, 0.4, 0.4, 0.2]])
    found = metrics.load("mrr").value(Judged((Rankings(relevant, scores),), ()))
    assert found == pytest.approx(((2 / 4 + 1 / 2) / 2 + 1 / 3) / 2)


def test_impressions_are_ranked_among_what_is_shown_cold_ones_apart():
    items = torch.zeros(3, 5, dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    batch = Batch(items, mask, torch.tensor([0, 1, 2]), history_length=2)
    scores = torch.tensor([[3.0, 2.0, 1.0], [0.0, 1.0, 9.0], [0.0, 5.0, 1.0]])
    found = judged("ranking", [Scored(batch, torch.tensor([False, False, True]))], [scores])
    assert {part.scores.shape for part in found.warm} == {(1, 3), (1, 2)}
    assert metrics.load("auc").value(found) == 1.0
    assert metrics.load("cold_auc").value(found) == 0.5


def test_responses_are_pooled_over_users_and_padding_is_left_out():
    items = torch.zeros(2, 3, dtype=torch.int64)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    scores = torch.tensor([[2.0, 1.0, -9.0], [3.0, 4.0, 0.0]])
    cold = torch.tensor([[False, False, True], [False, False, True]])
    found = judged("response", [Scored(Batch(items, mask, targets, 3), cold)], [scores])
    assert metrics.load("auc").value(found) == 0.75
    assert metrics.load("cold_auc").value(found) is None
    with pytest.raises(NonFiniteLoss, match="not finite"):
        judged("response", [Scored(Batch(items, mask, targets, 3), cold)], [scores * float("nan")])
