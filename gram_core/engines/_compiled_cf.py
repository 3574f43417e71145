"""A CF module whose training loss is compiled: its many small operations become few."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from gram_core.batch import Batch
from gram_core.loss_terms import loss_terms


class CompiledCF(nn.Module):
    """The same CF module, sharing its parameters; scores are computed as before."""

    def __init__(self, module: Any):
        super().__init__()
        self.module = module
        self.name: str = module.name
        self.task: Literal["ranking", "response"] = module.task
        self._loss = torch.compile(module.loss)

    def loss(self, encodings: Tensor, batch: Batch) -> Tensor:
        """The module's loss."""
        return self._loss(encodings, batch)

    def terms(self, batch: Batch) -> int:
        """Terms of the module's loss."""
        return loss_terms(self.module, batch)

    def scores(self, encodings: Tensor, batch: Batch) -> Tensor:
        """The module's scores."""
        return self.module.scores(encodings, batch)
