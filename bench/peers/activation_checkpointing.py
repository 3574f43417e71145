"""End-to-end training with checkpointed layers: the usual answer to memory, at the price of a second forward pass.

Of each encoder layer only its input is kept; in the backward pass the layer runs again, random state replayed
(`torch.utils.checkpoint`, without re-entrance).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.limitations import Handicap
from bench.peers._limitations import UNCAPTURED
from gram_core.batch import Batch, every_slot
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.methods.e2e import E2E
from gram_core.protocols import ContentEncoder, Exactness
from gram_core.training import Training


class ActivationCheckpointing:
    """Every slot is encoded, as in end-to-end training, with one layer's activations at a time."""

    name: ClassVar[str] = "activation_checkpointing"
    exactness: ClassVar[Exactness] = "exact"
    handicaps: ClassVar[tuple[Handicap, ...]] = (UNCAPTURED,)

    @dataclass(frozen=True)
    class Settings:
        """Nothing to set."""

    def __init__(self, training: Training, settings: Settings | None = None):
        self.settings = settings or self.Settings()
        if isinstance(training.encoder, PackingEncoder):
            self.training = replace(training, encoder=training.encoder.recomputing())
        else:
            self.training = replace(training, encoder=checkpointed(training.encoder))
        self._e2e = E2E(self.training)

    @property
    def interval(self) -> int:
        """Every step updates the encoder."""
        return 1

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        return self._e2e.step(batch)

    def finish(self) -> None:
        """Nothing is pending between steps."""

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the encoder in these steps, one tensor per step; a second forward not counted."""
        return [every_slot(batch).items for batch in batches]


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
        layer.forward = _recomputed(layer.forward)
    return shared


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    return partial(checkpoint, forward, use_reentrant=False)
