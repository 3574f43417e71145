"""Records that hold no measurement, and the columns that say whose a record is."""

from __future__ import annotations

from typing import Any

from bench.processes.failures import Failure
from bench.processes.messages import Job
from bench.results.detail import MeasurementDetail
from bench.results.schema import Exactness, Record

WEAKEST_CLAIM: Exactness = "other-model"
"""Recorded where a worker was gone before it could say what its method is."""


def identity(job: Job) -> dict[str, Any]:
    """The columns of a record that its job decides."""
    run, item = job.config.run, job.item
    return {
        "case": item.case.axes(),
        "method": item.line.method,
        "engine": item.line.engine,
        "accumulation_steps": item.line.accumulation_steps,
        "block": item.block,
        "replica": item.replica,
        "dropout": run.dropout,
        "padding": run.padding,
        "optimizer": run.optimizer,
        "seed": run.seed,
    }


def failed_record(
    job: Job, failure: Failure, exactness: Exactness | None, known: dict[str, Any] | None = None
) -> Record:
    """A measurement that isn't one: its outcome, its reason, and the columns that are known nevertheless."""
    columns = dict(known or {})
    detail = dict(columns.pop("detail", {}))
    if failure.trace:
        detail["trace"] = failure.trace
    if failure.lasting:
        detail["lasting"] = True
    return Record(
        **identity(job),
        outcome=failure.outcome,
        reason=failure.reason,
        exactness=exactness or WEAKEST_CLAIM,
        **columns,
        detail=MeasurementDetail(**detail),
    )
