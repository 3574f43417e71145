"""What a CF step takes by itself, of methods whose encoder learns once in many: in their windows it is never alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from bench.measure.clock import Window
from gram_core.batch import Batch
from gram_core.methods._base import MethodBase

WINDOWS, MOST_STEPS = 3, 16
"""Timed windows, and steps of each at most."""


def cf_step_s(method: MethodBase, batch: Batch, timed: Callable[[list[Batch]], Window]) -> float | None:
    """Median seconds of a step on `batch` whose items are encoded already, and after which the encoder does not learn.

    None for methods without such steps. timed: steps on these batches, timed. No interval is to be open; none is left.
    """
    between = method.interval - 2  # the first step encodes, the last is followed by the encoder's pass
    if between < 1:
        return None
    windows = min(WINDOWS, between)
    steps = min(between // windows, MOST_STEPS)
    timed([batch])
    seconds = [timed([batch] * steps).step_s for _ in range(windows)]
    method.finish()
    return statistics.median(seconds)
