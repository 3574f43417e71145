"""How learning rates change from step to step."""

from collections.abc import Callable

from bench.configuration.train_settings import TrainSettings


def factor(settings: TrainSettings) -> Callable[[int], float]:
    """Step (from 0) -> what the learning rate is multiplied by; 1 at the end of the warm-up.

    noam (Vaswani et al. 2017): up to there linearly, then down with the square root of the step.
    """
    warm = settings.warmup_steps

    def constant(step: int) -> float:
        return min(1.0, (step + 1) / warm) if warm else 1.0

    def noam(step: int) -> float:
        return float(min((step + 1) / warm, (warm / (step + 1)) ** 0.5))

    return noam if settings.schedule == "noam" else constant
