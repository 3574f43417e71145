"""A step on encodings of which some are fresh, with a graph, and the others come from earlier steps, without one.

U unique items of the batch, F of them fresh, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.peers._kept_encodings import KeptEncodings
from gram_core.batch import PADDING_SLOT, Batch, Selection
from gram_core.phases import phase
from gram_core.training import Training


def partly_fresh_step(
    training: Training, kept: KeptEncodings, selection: Selection, fresh: Tensor, batch: Batch, step: int
) -> Tensor:
    """One optimizer step of encoder and CF module; returns the loss, detached.

    fresh: which of the selection's items are encoded now, bool [U]; `kept` holds the others, and the fresh ones
    afterwards, as of this step. What is read from `kept` gets no gradient.
    """
    with phase("host"):
        now, earlier = selection.items[fresh], selection.items[~fresh]
        place = torch.empty_like(selection.items)
        place[fresh] = torch.arange(len(now))
        place[~fresh] = torch.arange(len(now), len(now) + len(earlier))
        slot_rows = place[selection.slot_rows].masked_fill(selection.slot_rows < 0, PADDING_SLOT)
    parts = ([training.encode(now)] if len(now) else []) + ([kept.read(earlier)] if len(earlier) else [])
    with phase("cf"):
        loss = training.loss(training.gather(slot_rows)(torch.cat(parts)), batch)
    with phase("backward"):
        loss.backward()
    if len(now):
        kept.write(now, parts[0], step)
    training.optimization.step()
    return loss.detach()
