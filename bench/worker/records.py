"""Records that hold no measurement, and the columns that say whose a record is."""

from typing import Any

from bench.configuration.case import Case
from bench.configuration.config import RunSettings
from bench.configuration.sweep import MethodLine
from bench.processes.failures import Failure
from bench.processes.messages import Job
from bench.results.detail import MeasurementDetail
from bench.results.schema import Exactness, Record

WEAKEST_CLAIM: Exactness = "other-model"
"""Recorded where a worker was gone before it could say what its method is."""


def line_fields(run: RunSettings, case: Case, line: MethodLine) -> dict[str, Any]:
    """The columns of `LineFields`, but for what was measured on."""
    settings = {name: getattr(run, name) for name in ("dropout", "padding", "optimizer")}
    return {"case": case.axes(), **vars(line), **settings}


def identity(job: Job) -> dict[str, Any]:
    """The columns of a record that its job decides."""
    run, item = job.config.run, job.item
    which = {"block": item.block, "replica": item.replica, "seed": run.seed}
    return line_fields(run, item.case, item.line) | which


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
