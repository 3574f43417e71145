"""Single-step with a loss planted: every step lasts longer by a part of itself, or finds no memory."""

import time
from dataclasses import dataclass

from gram_core.methods.single_step import SingleStep


class SlowedSingleStep(SingleStep):
    name = "slowed_single_step"

    @dataclass(frozen=True)
    class Settings(SingleStep.Settings):
        """slowdown: 0.1 lets a step last a tenth longer; starved: whether it runs out of memory."""

        slowdown: float = 0.0
        starved: bool = False

    def step(self, batch):
        if self.settings.starved:
            raise MemoryError("planted")
        began = time.perf_counter()
        loss = super().step(batch)
        until = began + (time.perf_counter() - began) * (1 + self.settings.slowdown)
        while time.perf_counter() < until:
            pass
        return loss
