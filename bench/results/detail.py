"""What no column of a result holds: facts of workload, encoder and method, of the process, and of what failed.

An entry is one line here. None, or nothing, where it does not apply; such entries are not written.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

from bench.results.files import Strict


class _Sparse(Strict):
    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None and value not in ({}, [])}


class Encoding(_Sparse):
    """How texts became encodings."""

    pooling: str | None = None
    prompt: str | None = None
    normalised: bool | None = None


class BuiltDetail(_Sparse):
    """What was built, measured or trained."""

    weights: str | None = None
    """real or random."""
    log: str | None = None
    """real or synthetic."""
    encoder: str | None = None
    """In words."""
    encoding: Encoding | None = None
    workload: dict[str, Any] | str | None = None
    """Facts of its own."""
    method_settings: dict[str, Any] = {}
    parameters: int | None = None
    """Of the encoder."""
    trainable_parameters: int | None = None
    handicaps: tuple[str, ...] = ()
    """In which respects a peer could not be given its best."""
    trace: str | None = None
    """Of the exception that ended it."""
    output: str | None = None
    """The last that a worker printed before it died."""


class MeasurementDetail(BuiltDetail):
    """Of a `Record`."""

    graphs: dict[str, Any] = {}
    """Captured, by the engine's own names."""
    windows_taken_again: int | None = None
    """For what became ready in them."""
    ratio_batches: int | None = None
    """Batches that the repetition ratio is counted on."""
    ratio_relative_error: float | None = None
    timed_batches: int | None = None
    """Batches of the log that windows went round."""
    timed_typical: bool | None = None
    """Whether these are the most typical ones of those that were counted."""
    kept_bytes: float | None = None
    """What the method keeps between steps besides weights and optimizer state."""
    first_unit_s: float | None = None
    """The first steps, whatever became ready in them."""
    threads: int | None = None
    resident_at_start_bytes: int | None = None
    resident_peak_bytes: int | None = None
    operations_not_counted: str | None = None
    """Why there are no useful_flops."""
    memory_budget_after_oom: float | None = None
    """Where the worker ran out of memory and went on with a smaller budget."""
    lasting: bool | None = None
    """Whether the line is not tried again: it can't run on this machine."""
    sharding: str | None = None
    gradient_sums: str | None = None
    costs: dict[str, Any] = {}
    """Of the exchange between processes, as measured before the run."""
    shared_steps: float | None = None
    """Part of the steps in which processes shared their items."""
    warm_up_s: float | None = None
    held_s: float | None = None
    """Time in which no other process of the block computed."""
    lead_in_s: float | None = None
    """Untimed steps before each window."""
    memory: str | None = None
    """Whose peaks the record holds: "solo", a process without neighbours; "same", the timed one among them."""
    block_s: float | None = None
    crowded: bool | None = None
    """Whether lines that should have fitted into memory together did not."""


class TrainingDetail(BuiltDetail):
    """Of the last point of a training."""

    interval: int | None = None
    """CF steps per update of the encoder."""
    parameters_sha256: str | None = None
    tier: str | None = None
    why_no_faster_tier: str | None = None
    undecidable: dict[str, str] = {}
    """Split -> why no metric is defined on it."""
    steps_per_epoch: int | None = None
    exit_code: int | None = None
    """Of a worker that died."""


def of_version_1(values: Any, model: type[BaseModel], version: int) -> Any:
    """A result's fields in this version: of a version 1 detail, which was free, less the entries that nothing reads."""
    if not isinstance(values, Mapping) or values.get("schema_version") != 1 or "detail" not in values:
        return values
    detail = values["detail"]
    if isinstance(detail, Mapping):
        detail = {name: value for name, value in detail.items() if name in model.model_fields}
    return {**values, "schema_version": version, "detail": detail}
