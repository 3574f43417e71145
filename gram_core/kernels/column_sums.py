"""Sums over many rows in two stages, without atomics: each program leaves a row of partial sums, then all are added.

P programs, T rows that they share, C columns.
"""

import torch
from torch import Tensor

MOST_PROGRAMS = 528
"""Four for each multiprocessor of the largest GPUs of today, whose loads then hide each other's latency."""
ROWS_PER_PROGRAM = 8


def sum_dtype(rows: Tensor) -> torch.dtype:
    """What rows are summed in: float32, float64 of float64."""
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


def partial_sums(rows: Tensor, columns: int) -> Tensor:
    """Room for the partial sums [P, C] of `columns` columns over as many rows as `rows` has; not initialised."""
    programs = min(MOST_PROGRAMS, max(1, len(rows) // ROWS_PER_PROGRAM)) if rows.is_cuda else 1
    return torch.empty(programs, columns, dtype=sum_dtype(rows), device=rows.device)


def column_sums(partials: Tensor, out: Tensor) -> Tensor:
    """The second stage: partials [P, C] summed into `out` [C], in a fixed order."""
    if partials.is_cuda:
        from gram_core.kernels import _column_sums_triton

        return _column_sums_triton.column_sums(partials, out)
    return torch.sum(partials, 0, out=out)
