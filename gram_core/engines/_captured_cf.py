"""CF steps on given encodings, captured: for any method that moves the CF module by itself.

B users, S slots, n encodings, R rows that a graph has room for (capacity), d width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from gram_core.batch import Batch
from gram_core.engines._capturable import forget_what_is_replaced, make_capturable
from gram_core.engines._captured import Capacities, Captured, CapturedFunction, GraphPool, Inputs, Outputs
from gram_core.engines._inputs import SMALLEST_ROWS, batch_of, filled_up, gather_of, slot_inputs
from gram_core.phases import phase
from gram_core.training import Training


class CapturedCFStep(Captured):
    """`Training.cf_step` and `cf_step_and_gradient` as graphs; the CF optimizer then counts on the device."""

    def __init__(self, training: Training, pool: GraphPool):
        self._training = training
        self._pool = pool
        self._rows = Capacities(SMALLEST_ROWS)
        self._step = CapturedFunction(self._device_step, training.device, pool=pool)
        self.functions = (self._step,)
        cf_alone = replace(training.optimization, encoder_optimizer=None, encoder_scheduler=None)
        make_capturable(cf_alone, training.device)
        forget_what_is_replaced(cf_alone, training.device, self.functions)

    def __call__(self, encodings: Tensor, slot_rows: Tensor, batch: Batch, *, differentiated: bool) -> Outputs:
        """The loss and, where `differentiated`, dL/d encodings [n, d]: the graph's own memory, to be read at once."""
        rows = self._rows.fit(len(encodings))
        inputs = slot_inputs(batch, slot_rows, rows) | {"encodings": filled_up(encodings, rows)}
        loss, *gradient = self._step(inputs, history_length=batch.history_length, differentiated=differentiated)
        self._training.optimization.advance(encoder=False)
        return loss.clone(), *(part[: len(encodings)] for part in gradient)

    def _device_step(self, inputs: Inputs, history_length: int, differentiated: bool) -> Outputs:
        leaf = inputs["encodings"].detach().requires_grad_(differentiated)
        with phase("cf"):
            loss = self._training.loss(gather_of(inputs)(leaf), batch_of(inputs, history_length))
            loss.backward()
        self._training.optimization.move(encoder=False)
        if not differentiated:
            return (loss.detach(),)
        return loss.detach(), torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


@dataclass
class CapturingTraining(Training):
    """A training whose CF steps are replayed from graphs of `pool`, from the first one on.

    Before, nothing is prepared for them: a method that takes none, moving the CF module along with the encoder, finds
    its optimizers as they were. What the encoder does between two such steps is launched, and counts as the device's
    work.
    """

    pool: GraphPool = field(kw_only=True)
    captures: ClassVar[bool] = True

    @classmethod
    def over(cls, training: Training) -> CapturingTraining:
        """The same training."""
        parts = {part.name: getattr(training, part.name) for part in fields(training) if part.init}
        return cls(**parts, pool=GraphPool(training.device, gives_way=training.processes == 1))

    def capture(self) -> CapturedCFStep:
        """The CF step, prepared when first asked for."""
        if self.captured is None:
            self.captured = CapturedCFStep(self, self.pool)
        return self.captured

    def cf_step(self, encodings: Tensor, slot_rows: Tensor, batch: Batch) -> Tensor:
        """As `Training.cf_step`."""
        (loss,) = self.capture()(encodings.detach(), slot_rows, batch, differentiated=False)
        return loss

    def cf_step_and_gradient(self, encodings: Tensor, slot_rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `Training.cf_step_and_gradient`; the gradient is the graph's own memory, written over by the next one."""
        loss, gradient = self.capture()(encodings.detach(), slot_rows, batch, differentiated=True)
        return loss, gradient

    def encode(self, items: Tensor) -> Tensor:
        """As `Training.encode`."""
        with self.pool.idle.busy():
            return super().encode(items)

    def encoder_step(self, encodings: Tensor, gradient: Tensor) -> None:
        """As `Training.encoder_step`."""
        with self.pool.idle.busy():
            super().encoder_step(encodings, gradient)
