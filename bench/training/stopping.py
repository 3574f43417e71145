"""When a training has stopped getting better."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class EarlyStopping:
    """The best value so far, and how many evaluations have passed since."""

    patience: int
    best: float | None = None
    since_best: int = 0

    def after(self, value: float | None) -> EarlyStopping:
        """The state after one more evaluation; a value that is missing or not a number is never a best."""
        if value is not None and not math.isnan(value) and (self.best is None or value > self.best):
            return replace(self, best=value, since_best=0)
        return replace(self, since_best=self.since_best + 1)

    @property
    def is_best(self) -> bool:
        """Whether the last evaluation was the best one."""
        return self.best is not None and self.since_best == 0

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.since_best >= self.patience
