"""Texts of random tokens, where a workload has none of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.workloads._base import WorkloadRequest

Ints = NDArray[np.int64]


def shortest(request: WorkloadRequest) -> int:
    """Tokens of the shortest text: special ones, and an ordinary one where L has room for it."""
    ends = (request.opening_token_id is not None) + (request.closing_token_id is not None)
    return min(request.text_length, 1 + ends)


def random_texts(lengths: Ints, request: WorkloadRequest, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Ordinary tokens [T] between opening and closing ones, and where each text starts [n + 1].

    lengths [n]: special tokens included.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    is_ordinary = np.ones(request.vocab_size, dtype=bool)
    is_ordinary[sorted(request.special_token_ids | {request.pad_token_id})] = False
    ordinary = np.flatnonzero(is_ordinary)
    tokens = ordinary[rng.integers(len(ordinary), size=offsets[-1])]
    if request.opening_token_id is not None:
        tokens[offsets[:-1]] = request.opening_token_id
    if request.closing_token_id is not None:
        tokens[offsets[1:] - 1] = request.closing_token_id
    return tokens, offsets
