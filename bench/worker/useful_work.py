"""What a step's work is worth, and what the device reaches: counted and timed after the measured windows.

Both take memory and time of their own, so that this is a measurement's last act. What cannot be counted is reported as
such: a measured time is none the worse for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.build.assembly import Built
from bench.measure.flops import compute_dtype, matrix_rate, product_size, useful_flops
from gram_core.batch import Batch

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
