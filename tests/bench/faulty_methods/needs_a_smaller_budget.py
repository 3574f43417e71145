"""Runs out of memory unless its memory budget is small."""

from dataclasses import dataclass

import torch

from gram_core.methods.single_step import SingleStep


class NeedsASmallerBudget(SingleStep):
    name = "needs_a_smaller_budget"

    @dataclass(frozen=True)
    class Settings:
        memory_budget: float = 0.8

    def __init__(self, training, settings):
        super().__init__(training, SingleStep.Settings())
        self.budget = settings.memory_budget

    def step(self, batch):
        if self.budget > 0.5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
        return super().step(batch)
