"""GRAM as its paper's authors train it: rows of an embedding table take the place of encodings for N CF steps.

Per CF step:
1. items that appear for the first time in the interval are encoded, without a graph, into their rows (Eq. 5);
2. the CF module steps on the loss of the rows, and so do the rows, by SGD of rate 1: pseudo-targets (Eq. 6-8).
Per interval of N steps:
3. the encoder regresses to the rows of Q, the items touched, 1/2 sum_i |h~_i - CE(c_i)|^2 (Eq. 9), in N CE
   minibatches of |Q|/N items with an optimizer step each.
The same mathematics as multi_step, with a table as large as the catalogue. Exact for N = 1, else stale.
Source: GRAM, NAACL 2022, Sec. 4, Alg. 1. I items of the catalogue, U unique items, d width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.methods import Handicap
from bench.peers._settings import PseudoTargetRegressionSettings
from gram_core.batch import Batch, unique_items
from gram_core.methods._base import MethodBase
from gram_core.methods.multi_step import interval_passes
from gram_core.phases import phase
from gram_core.protocols import Exactness
from gram_core.training import Training


class PseudoTargetRegression(MethodBase):
    """N CF steps on table rows, then N minibatches of the encoder."""

    name: ClassVar[str] = "pseudo_target_regression"
    exactness: ClassVar[Exactness] = "stale"
    exact_with: ClassVar[Mapping[str, Any]] = {"accumulation_steps": 1}
    handicaps = (
        Handicap(
            "on the fast engine at most its CF step is replayed from graphs: rows and encoder move kernel by kernel",
            "against graphs",
        ),
        Handicap("its table holds a row for every item of the catalogue, whether touched or not"),
    )

    Settings = PseudoTargetRegressionSettings

    def __init__(self, training: Training, settings: PseudoTargetRegressionSettings | None = None):
        super().__init__(training, settings)
        weight = next(iter(training.encoder.parameters()))
        rows = torch.zeros(len(training.table), training.encoder.width, device=training.device, dtype=weight.dtype)
        self._table = nn.Embedding.from_pretrained(rows, freeze=False, sparse=True)
        self._sgd = torch.optim.SGD(self._table.parameters(), lr=1.0)
        self._touched = torch.empty(0, dtype=torch.int64)
        self._steps = 0

    @property
    def interval(self) -> int:
        """N."""
        return self.settings.accumulation_steps

    def step(self, batch: Batch) -> Tensor:
        """One CF step; every N-th also updates the encoder. Returns the loss, detached."""
        with phase("host"):
            selection = unique_items(batch)
        self._fill_new_rows(selection.items)
        loss = self._move_rows(selection.items, selection.slot_rows, batch)
        self._steps += 1
        if self._steps == self.settings.accumulation_steps:
            self._regress()
        return loss

    def finish(self) -> None:
        """Updates the encoder with an interval that is still open."""
        if self._steps:
            self._regress()

    def _fill_new_rows(self, items: Tensor) -> None:
        """Phase 1, for the batch's items [U]."""
        new = items[~torch.isin(items, self._touched)]
        if len(new):
            with torch.no_grad():
                self._table.weight[self._on_device(new)] = self.training.encode(new)
            self._touched = torch.cat([self._touched, new])

    def _move_rows(self, items: Tensor, slot_rows: Tensor, batch: Batch) -> Tensor:
        """Phase 2: CF module and rows step; returns the loss, detached."""
        rows = self._table(self._on_device(items))
        loss, gradient = self.training.cf_step_and_gradient(rows, slot_rows, batch)
        with phase("cf"):
            rows.backward(gradient)
            self._sgd.step()
            self._sgd.zero_grad()
        return loss

    def _regress(self) -> None:
        """Phase 3, and the interval begins anew."""
        for items in self._touched.tensor_split(self._steps):
            if len(items):
                encodings = self.training.encode(items)
                with phase("ce_backward"):
                    targets = self._table.weight.detach()[self._on_device(items)]
                    if encodings.requires_grad:  # of a frozen encoder nothing does
                        (0.5 * (targets - encodings).square().sum()).backward()
                self.training.optimization.step_encoder()
        self._touched = self._touched[:0]
        self._steps = 0

    def _on_device(self, items: Tensor) -> Tensor:
        return items.to(self.training.device, non_blocking=True)

    def encoded_items(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The items whose texts pass the encoder in these steps, taken as whole intervals from a fresh one."""
        return interval_passes(batches, self.settings.accumulation_steps)
