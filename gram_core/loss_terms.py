"""How many terms the mean of a CF module's loss has: what its batch weighs among batches that train together."""

from __future__ import annotations

from gram_core.batch import Batch
from gram_core.protocols import CFModule


def loss_terms(cf_module: CFModule, batch: Batch) -> int:
    """What the module's own `terms(batch)` says; without one, users in ranking and real slots in response prediction.

    The loss of two batches joined is the mean of their losses weighted with this.
    """
    own = getattr(cf_module, "terms", None)
    if own is not None:
        return int(own(batch))
    return batch.users if cf_module.task == "ranking" else batch.item_slots
