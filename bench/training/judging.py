"""Held-out data scored by the content encoder as it is now: what a method is judged by.

B users, S slots, C candidates.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.metrics._base import Judged, Rankings, measured
from bench.processes.failures import NonFiniteLoss
from bench.workloads._base import HeldOut, Scored, Task
from gram_core.evaluation import score
from gram_core.training import Training

BATCH_TOKENS = 32_768
"""Tokens that evaluation encodes at once, without a graph: little compared with what a training step keeps."""


def quality(training: Training, task: Task, held_out: Sequence[Scored]) -> dict[str, float | None]:
    """Every metric of the task; raises NonFiniteLoss where scores are no numbers."""
    scores = score(training, [each.batch for each in held_out], BATCH_TOKENS)
    return measured(judged(task, held_out, scores), task)


def undecidable(task: Task, held_out: Sequence[Scored]) -> str | None:
    """Why a split holds nothing right next to something wrong, so that no metric is defined; None where it does."""
    if task == "ranking":
        shown = [each.batch.mask[:, each.batch.history_length :].sum(1) for each in held_out]
        several = any((candidates > 1).any() for candidates in shown)
        return None if several else "none of its impressions shows more than one candidate"
    right = [bool(value) for each in held_out for value in (each.batch.targets > 0.5)[each.batch.mask]]
    if len(set(right)) == 2:
        return None
    return f"each of its responses is {'right' if right[0] else 'wrong'}" if right else "it holds no response"


def all_of(split: HeldOut) -> list[Scored]:
    """Every held-out batch."""
    return [split.batches(number) for number in range(split.steps)]


def judged(task: Task, held_out: Sequence[Scored], scores: Sequence[Tensor]) -> Judged:
    """Scores [B, C] or [B, S] of each batch with what was right, warm and cold items apart."""
    pairs = [(each, _host(values)) for each, values in zip(held_out, scores, strict=True)]
    return _impressions(pairs) if task == "ranking" else _responses(pairs)


_Pairs = Sequence[tuple[Scored, NDArray[np.float64]]]


def _host(scores: Tensor) -> NDArray[np.float64]:
    return scores.detach().double().cpu().numpy()


def _impressions(pairs: _Pairs) -> Judged:
    """A ranking per user: the clicked candidate among those that the mask shows."""
    rows: dict[tuple[bool, int], list[tuple[NDArray[np.bool_], NDArray[np.float64]]]] = {}
    for each, scores in pairs:
        batch, cold = each.batch, each.cold.numpy()
        shown = batch.mask[:, batch.history_length :].numpy()
        clicked = np.arange(scores.shape[1]) == batch.targets.numpy()[:, None]
        _check(scores[shown])
        candidates = shown.sum(axis=1)
        for is_cold, count in {*zip(cold.tolist(), candidates.tolist(), strict=True)}:
            chosen = (cold == is_cold) & (candidates == count)
            picked = shown & chosen[:, None]
            part = clicked[picked].reshape(-1, count), scores[picked].reshape(-1, count)
            rows.setdefault((is_cold, count), []).append(part)
    joined = {
        key: Rankings(*(np.concatenate(side) for side in zip(*parts, strict=True)))
        for key, parts in sorted(rows.items())
    }
    return Judged(
        warm=tuple(each for (is_cold, _), each in joined.items() if not is_cold),
        cold=tuple(each for (is_cold, _), each in joined.items() if is_cold),
    )


def _responses(pairs: _Pairs) -> Judged:
    """All predictions together are one ranking: right answers should be above wrong ones, of whatever batch."""
    masks = [each.batch.mask.numpy() for each, _ in pairs]
    right, scores, cold = (
        np.concatenate([values[mask] for values, mask in zip(column, masks, strict=True)])
        for column in (
            [each.batch.targets.numpy() > 0.5 for each, _ in pairs],
            [values for _, values in pairs],
            [each.cold.numpy() for each, _ in pairs],
        )
    )
    _check(scores)
    return Judged(
        warm=(Rankings(right[None, ~cold], scores[None, ~cold]),),
        cold=(Rankings(right[None, cold], scores[None, cold]),),
    )


def _check(scores: NDArray[np.float64]) -> None:
    if not np.isfinite(scores).all():
        raise NonFiniteLoss("held-out scores are not finite; lower the learning rate or choose another precision")
