"""After the measured windows: a step's useful work, what the device reaches, and what a CF step takes alone.

These take memory and time of their own, so that they are a measurement's last acts. What cannot be counted is reported
as such: a measured time is none the worse for it.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from bench.build.assembly import Built
from bench.measure.clock import Window
from bench.measure.flops import compute_dtype, matrix_rate, product_size, useful_flops
from gram_core.batch import Batch
from gram_core.methods._base import MethodBase

NOT_COUNTED = "operations_not_counted"
"""The entry of a record's detail that says why there are none."""


def useful_work(built: Built, batches: Sequence[Batch]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of a `Record` about steps on `batches`, and what its detail says instead where there are none.

    Of several processes that train together nothing is counted: they share their work.
    """
    training, method = built.training, built.method
    if training.processes > 1:
        return {}, {}
    if len(batches) % method.interval:
        return {}, {NOT_COUNTED: "the steps are no whole number of intervals"}
    try:
        flops = useful_flops(method, training, batches)
        rate = matrix_rate(training.device, compute_dtype(training), product_size(training.device))
    except Exception as error:  # a model's own, or no memory left for it
        return {}, {NOT_COUNTED: f"{type(error).__name__}: {error}".partition("\n")[0]}
    return {"useful_flops": flops, "matrix_flops_per_s": rate}, {}


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
