"""A bias by relative position, spread over pairs of query and key, and what pairs add up to for its gradient.

A heads, R the bias's reach, L queries in a row, M keys.
"""

import torch.nn.functional as F
from torch import Tensor


def of_pairs(bias: Tensor, longest: int) -> Tensor:
    """[A, 2R + 1] by the key's place less the query's -> [A, L, L] by query and key of a text."""
    beyond = longest - 1 - bias.shape[1] // 2
    near = F.pad(bias, (beyond, beyond), "replicate") if beyond > 0 else bias[:, -beyond : bias.shape[1] + beyond]
    return near.unfold(1, longest, 1).flip(1)


def by_distance(pairs: Tensor, columns: int, further: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """[A, L, M], whose first query is in line with the key in the middle that begins L of them -> [A, 2R + 1].

    further [A] each: what pairs further apart than these add up to, keys before their queries and behind them. Summed
    in one order, always.
    """
    heads, rows, keys = pairs.shape
    skewed = F.pad(pairs.flip(1), (0, rows)).flatten(1)  # read in rows one place shorter, a diagonal is a column
    sums = skewed[:, : rows * (rows + keys - 1)].view(heads, rows, -1).sum(1)
    if further is not None:
        sums[:, 0] += further[0]
        sums[:, -1] += further[1]
    beyond = (sums.shape[1] - columns) // 2
    if beyond <= 0:
        return F.pad(sums, (-beyond, -beyond))
    inside = sums[:, beyond:-beyond].clone()
    inside[:, 0] += sums[:, :beyond].sum(1)
    inside[:, -1] += sums[:, -beyond:].sum(1)
    return inside
