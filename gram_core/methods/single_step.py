"""Single-step GRAM (Sec. 4.2): each unique item is encoded once per step and back-propagated once.

Phases of a step, with the paper's equations:
1. h_i <- CE(c_i) for the unique items i of the batch (Eq. 5);
2. the CF module's loss L on the encodings, its gradient for the CF module, and dL/dh_i summed over every
   slot that reads h_i (Eq. 6-7);
3. the pseudo-target h~_i = h_i - dL/dh_i (Eq. 8);
4. the encoder's gradient of the pseudo-loss 1/2 sum_i |h~_i - CE(c_i)|^2 (Eq. 9), which at the current
   parameters is -J^T (h~ - h) = J^T dL/dh: end-to-end training's gradient exactly.
Phase 4 therefore back-propagates dL/dh_i itself, through the graphs that phase 1 kept, and neither forms the
pseudo-target nor encodes again.
"""

from typing import ClassVar

import torch
from torch import Tensor

from gram_core.batch import Batch
from gram_core.chunking import ChunkedEncoding, GraphBudget, KeptEncoding, SharedEncoding
from gram_core.methods._base import MethodBase
from gram_core.methods._settings import SingleStepSettings
from gram_core.phases import phase
from gram_core.training import Gather


class SingleStep(MethodBase):
    """E2E's gradient at the cost of the unique items, with a memory bound of its own."""

    name: ClassVar[str] = "single_step"
    distributes: ClassVar[bool] = True

    Settings = SingleStepSettings

    def accumulate(self, batch: Batch) -> Tensor:
        """Adds the batch's gradient to every parameter's `.grad`; returns the loss, detached."""
        with phase("host"):
            share = self.training.share(self.select(batch), batch)
        budget = GraphBudget(self.training.device, self.settings.kept_tokens, self.settings.memory_budget)
        own = ChunkedEncoding(self.training, share.items, self.settings.chunk_tokens, budget)
        return self._backpropagate(SharedEncoding(own, share), self.training.gather(share.slot_rows), batch)

    def backpropagate(self, encodings: Tensor, gather: Gather, batch: Batch) -> Tensor:
        """From encodings [U, d] with their whole graph to every gradient; returns the loss, detached."""
        return self._backpropagate(KeptEncoding(encodings), gather, batch)

    def _backpropagate(self, encoding: SharedEncoding | KeptEncoding, gather: Gather, batch: Batch) -> Tensor:
        """Phases 2 to 4, with phase 1 behind `encoding`."""
        with phase("cf"):
            loss, gradient = self.encoding_gradient(encoding.encodings, gather, batch)
        with phase("ce_backward"):
            encoding.backward(gradient)
        return loss

    def encoding_gradient(self, encodings: Tensor, gather: Gather, batch: Batch) -> tuple[Tensor, Tensor]:
        """Phase 2: the loss, and dL/dh [U, d]; the CF module's gradient is left in its `.grad`."""
        leaf = encodings.requires_grad_()
        loss = self.training.loss(gather(leaf), batch)
        loss.backward()
        return loss.detach(), torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        loss = self.accumulate(batch)
        self.training.optimization.step()
        return loss
