"""End-to-end training: the encoder runs for every item slot of a batch, repeats included."""

from typing import ClassVar

from torch import Tensor

from gram_core.batch import Batch, every_slot
from gram_core.methods._base import MethodBase
from gram_core.phases import phase
from gram_core.training import Gather


class E2E(MethodBase):
    """The reference that every speed-up is measured against."""

    name: ClassVar[str] = "e2e"
    distributes: ClassVar[bool] = True

    select = staticmethod(every_slot)

    def accumulate(self, batch: Batch) -> Tensor:
        """Adds the batch's gradient to every parameter's `.grad`; returns the loss, detached."""
        with phase("host"):
            selection = self.select(batch)
        return self._backward(self.training.end_to_end(selection, batch))

    def backpropagate(self, encodings: Tensor, gather: Gather, batch: Batch) -> Tensor:
        """From encodings [n, d] with their graph to every gradient; returns the loss, detached."""
        with phase("cf"):
            loss = self.training.loss(gather(encodings), batch)
        return self._backward(loss)

    @staticmethod
    def _backward(loss: Tensor) -> Tensor:
        with phase("backward"):
            loss.backward()
        return loss.detach()

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step of encoder and CF module."""
        loss = self.accumulate(batch)
        self.training.optimization.step()
        return loss
