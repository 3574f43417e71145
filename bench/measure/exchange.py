"""What `deduplicate = "auto"` weighs, measured on the ranks that will train, in a fraction of a second."""

import torch
from torch import Tensor

from bench.measure.flops import matrix_rate, median_s, operations_of
from gram_core.distributed import ExchangeCosts, Ranks
from gram_core.protocols import ContentEncoder

FEW, MANY = 64, 4096
"""Rows of a rank whose exchanges are timed."""
EFFICIENCY = 0.5
"""Of the matrix rate, what an encoder's passes reach: 0.45 to 0.55 on packed texts of 16 thousand tokens on an H200."""


def exchange_costs(encoder: ContentEncoder, lengths: Tensor, dtype: torch.dtype, ranks: Ranks) -> ExchangeCosts:
    """The slowest rank's costs, the same on all. lengths: of the catalogue's items [I]; dtype: of the products."""
    device = next(encoder.parameters()).device
    typical = lengths[:: max(1, len(lengths) // 1024)]
    operations = operations_of(encoder, backward=True).of(typical) / max(1, int(typical.sum()))
    few_s, many_s = (_exchange_s(rows, encoder.width, device, ranks) for rows in (FEW, MANY))
    row_s = max(0.0, (many_s - few_s) / (MANY - FEW))
    own = (operations / (EFFICIENCY * matrix_rate(device, dtype)), row_s, max(0.0, few_s - FEW * row_s))
    return ExchangeCosts(*map(max, zip(*ranks.all_values(own), strict=True)))


def _exchange_s(rows: int, width: int, device: torch.device, ranks: Ranks) -> float:
    """Seconds of gathering so many encodings of each rank, and of summing their gradients at their owners."""
    encodings = torch.zeros(rows, width, device=device)
    return median_s(lambda: ranks.reduce_scatter(ranks.all_gather(encodings)), device)
