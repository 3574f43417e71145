"""Evaluation: every item, warm or cold, is scored by what the content encoder says of it now.

Never by a moved encoding: pseudo-targets are where the encoder is going, and an item that training has not met
has none. Call the method's `finish` first where the last, open interval shall count.

n items, d width, B users, C candidates, S slots.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gram_core.batch import PADDING_SLOT, Batch
from gram_core.chunking import chunk_bounds
from gram_core.training import Training


def encode_all(training: Training, items: Tensor, batch_tokens: int | None = None) -> Tensor:
    """Encodings [n, d] of `items` [n] by the encoder, in evaluation mode and without a graph.

    batch_tokens: the most tokens encoded at once; None is no limit. Only bounds memory.
    """
    tokens = training.encoder.computed_tokens(training.table.lengths[items])
    with evaluating(training), torch.no_grad():
        parts = [training.encode(items[start:stop]) for start, stop in chunk_bounds(tokens, batch_tokens)]
    return torch.cat(parts)


def score(training: Training, batches: Sequence[Batch], batch_tokens: int | None = None) -> list[Tensor]:
    """The CF module's scores of each batch, [B, C] or [B, S]; each item of them all is encoded once."""
    items = torch.unique(torch.cat([batch.items[batch.mask] for batch in batches]))
    encodings = encode_all(training, items, batch_tokens)
    with evaluating(training), torch.no_grad():
        return [_scores(training, encodings, items, batch) for batch in batches]


def _scores(training: Training, encodings: Tensor, items: Tensor, batch: Batch) -> Tensor:
    rows = torch.searchsorted(items, batch.items.masked_fill(~batch.mask, 0)).masked_fill(~batch.mask, PADDING_SLOT)
    slots = training.gather(rows)(encodings)
    with training.autocast():
        return training.cf_module.scores(slots, batch.to(training.device))


@contextmanager
def evaluating(training: Training) -> Iterator[None]:
    """Within, encoder and CF module are in evaluation mode; afterwards each of their parts is as it was."""
    roots = [part for part in (training.encoder, training.cf_module) if isinstance(part, nn.Module)]
    modes = [(module, module.training) for root in roots for module in root.modules()]
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
