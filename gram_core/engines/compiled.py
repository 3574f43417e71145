"""The fast engine with the CF module compiled as well: for CF steps that are many and small, as multi_step's are.

Its dozens of small operations become few; compiling them takes some seconds in every process.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gram_core.batch import Batch
from gram_core.engines import fast
from gram_core.protocols import Method, loss_terms
from gram_core.training import Training


def build(method: type, training: Training, settings: Any) -> Method:
    """As `fast.build`; on a CPU it is that, for there the encoder's work is all that counts."""
    if training.device.type == "cuda":
        training = replace(training, cf_module=CompiledCF(training.cf_module))
    return fast.build(method, training, settings)


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
