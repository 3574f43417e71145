"""End-to-end training: the encoder runs for every item slot of a batch, repeats included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gram_core.batch import Batch, Selection, every_slot
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Gather, Training


class E2E:
    """The reference that every speed-up is measured against."""

    name: ClassVar[str] = "e2e"
    exactness: ClassVar[Exactness] = "exact"
    distributes: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings:
        """Nothing to set."""

    def __init__(self, training: Training, settings: Settings | None = None):
        self.training = training
        self.settings = settings or self.Settings()

    @property
    def interval(self) -> int:
        """Every step updates the encoder."""
        return 1

    @staticmethod
    def select(batch: Batch) -> Selection:
        """Every slot gets an encoding of its own."""
        return every_slot(batch)

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

    def finish(self) -> None:
        """Nothing is pending between steps."""

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the encoder in these steps, one tensor per step."""
        return [self.select(batch).items for batch in batches]
