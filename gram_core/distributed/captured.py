"""A training on several processes whose steps are replayed from graphs, collectives and all.

Every process gives its device the same exchanges in the same order, whether it replays a step, captures it or runs it
as it is. Which of these it does may differ between processes: it follows from the sizes of each one's own share.
"""

from dataclasses import dataclass

from torch import Tensor

from gram_core.batch import Batch
from gram_core.distributed.training import DistributedTraining
from gram_core.engines._captured_cf import CapturingTraining
from gram_core.training import Training


@dataclass(kw_only=True)
class CapturingDistributedTraining(CapturingTraining, DistributedTraining):
    """A distributed training for captured steps; CF steps of their own, as other methods take them, are launched."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimization.joint is not None:
            self.optimization.joint.make_capturable(self.device)

    def cf_step(self, encodings: Tensor, slot_rows: Tensor, batch: Batch) -> Tensor:
        """As `Training.cf_step`."""
        return Training.cf_step(self, encodings, slot_rows, batch)

    def cf_step_and_gradient(self, encodings: Tensor, slot_rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `Training.cf_step_and_gradient`."""
        return Training.cf_step_and_gradient(self, encodings, slot_rows, batch)
