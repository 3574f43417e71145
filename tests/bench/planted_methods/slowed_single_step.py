"""Single-step with a loss planted: every step lasts longer by a part of itself, or finds no memory."""

from dataclasses import dataclass

from gram_core.methods.single_step import SingleStep
from tests.bench import _counted_clock


class SlowedSingleStep(SingleStep):
    name = "slowed_single_step"

    @dataclass(frozen=True)
    class Settings(SingleStep.Settings):
        """slowdown: 0.1 lets a step last a tenth longer, by the clock that counts; starved: it runs out of memory."""

        slowdown: float = 0.0
        starved: bool = False

    def step(self, batch):
        if self.settings.starved:
            raise MemoryError("planted")
        began = _counted_clock.now()
        loss = super().step(batch)
        _counted_clock.advance(self.settings.slowdown * (_counted_clock.now() - began))
        return loss
