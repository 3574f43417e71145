"""End-to-end training with checkpointed layers: the usual answer to memory, at the price of a second forward pass.

Of each encoder layer only its input is kept; in the backward pass the layer runs again, random state replayed
(`torch.utils.checkpoint`, without re-entrance).
"""

import copy
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.methods import UNCAPTURED
from gram_core.batch import Batch
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.methods._base import MethodBase
from gram_core.methods.e2e import E2E
from gram_core.protocols import ContentEncoder
from gram_core.training import Training


class ActivationCheckpointing(MethodBase):
    """Every slot is encoded, as in end-to-end training, with one layer's activations at a time.

    It is no E2E: what is captured of that would not recompute.
    """

    name: ClassVar[str] = "activation_checkpointing"
    handicaps = (UNCAPTURED,)

    def __init__(self, training: Training, settings: Any = None):
        encoder = training.encoder
        recomputing = encoder.recomputing() if isinstance(encoder, PackingEncoder) else checkpointed(encoder)
        super().__init__(replace(training, encoder=recomputing), settings)
        self._e2e = E2E(self.training)

    select = staticmethod(E2E.select)

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        return self._e2e.step(batch)


def checkpointed(encoder: ContentEncoder) -> Any:
    """The same encoder, sharing its parameters, with layers that keep their inputs only.

    Raises ValueError for an encoder without a list of layers.
    """
    parameters = {id(parameter): parameter for parameter in encoder.parameters()}
    shared: Any = copy.deepcopy(encoder, dict(parameters))
    modules = shared.modules() if isinstance(shared, nn.Module) else ()
    layers = next((module for module in modules if isinstance(module, nn.ModuleList)), None)
    if layers is None:
        raise ValueError(f"activation_checkpointing finds no list of layers in {type(encoder).__name__}")
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return shared
