"""A training loop of one's own on `encode`: what anyone's loop takes beside the engine's whole steps.

On the fast engine the encoder is `accelerated`, whose passes are replayed; loss, backward and optimizers are called as
any loop calls them. On the eager engine it is the encoder as it is.
"""

from typing import Any, ClassVar

from torch import Tensor

from bench.methods import Handicap
from gram_core.acceleration import accelerated
from gram_core.batch import Batch, ItemTable
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.encoding import encode
from gram_core.methods._base import MethodBase
from gram_core.phases import phase
from gram_core.training import Training


class OwnLoop(MethodBase):
    """Each item of a batch is encoded once, by one call within a plain loop."""

    name: ClassVar[str] = "own_loop"
    handicaps = (
        Handicap(
            "the encoder's passes alone are replayed from graphs; loss, backward and optimizers are launched kernel by "
            "kernel, as in any loop",
            "against graphs",
        ),
    )

    def __init__(self, training: Training, settings: Any = None):
        super().__init__(training, settings)
        encoder, table = training.encoder, training.table
        self._encoder: Any = training.encode
        if isinstance(encoder, PackingEncoder) and isinstance(table, ItemTable):
            with training.autocast():
                self._encoder = accelerated(encoder.encoder, table)

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        training = self.training
        with training.autocast():
            with phase("ce_forward"):
                rows = encode(self._encoder, batch.items.masked_fill(~batch.mask, -1))
            with phase("cf"):
                loss = training.cf_module.loss(rows, batch.to(training.device))
        with phase("backward"):
            loss.backward()
        training.optimization.step()
        return loss.detach()
