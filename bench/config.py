"""bench.toml as frozen, validated values: one model per table."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_serializer,
)

Precision = Literal["float64", "float32", "tf32", "bf16"]
DeviceKind = Literal["cpu", "cuda"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Count = Annotated[StrictInt, Field(ge=1)]
Seconds = Annotated[StrictFloat, Field(gt=0)]


class RunSettings(_Strict):
    """`[run]`: how every measurement of the run is taken."""

    seed: Annotated[StrictInt, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dropout: Literal["off", "shared"] = "off"
    padding: Literal["max_length", "longest"] = "max_length"
    optimizer: StrictStr = "adamw"
    learning_rate: Annotated[StrictFloat, Field(gt=0)] = 1e-4
    max_grad_norm: Annotated[StrictFloat, Field(gt=0)] | None = None
    blocks: Count = 1
    """Rounds of fresh processes per case."""
    samples: Count = 5
    """Timed windows of a worker."""
    min_samples: Count = 3
    """Windows taken even where budget_s is spent."""
    window_s: Seconds = 0.1
    """Shortest timed window; short steps are repeated to fill it."""
    min_warmup_steps: Count = 2
    max_warmup_steps: Count = 30
    budget_s: Seconds = 20.0
    """Time for one worker's warm-up and samples."""
    timeout_s: Seconds = 300.0
    """A worker that takes longer is ended and recorded as `timeout`."""


class ModelSettings(_Strict):
    """`[model]`: what sits on the encodings."""

    cf_module: StrictStr = "nrms"
    candidates: Annotated[StrictInt, Field(ge=2)] = 5
    """C = 1 + npratio: the clicked item and its sampled negatives."""
    pooling: Literal["mean", "cls", "attention"] = "mean"


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


def _layers(value: Any) -> Any:
    if value == "all" or (type(value) is int and value >= 1):
        return value
    raise ValueError('expected a number of layers of at least 1, or "all"')


def _accumulation_steps(value: Any) -> Any:
    if type(value) is int and value >= 1:
        return value
    if isinstance(value, str) and re.fullmatch(r"(\d+(\.\d*)?|\.\d+)E", value) and float(value[:-1]) > 0:
        return value
    raise ValueError('expected a whole number of at least 1, or a fraction of an epoch such as "0.5E"')


_AXIS = BeforeValidator(_as_list), Field(min_length=1)
Names = Annotated[tuple[StrictStr, ...], *_AXIS]
Counts = Annotated[tuple[Count, ...], *_AXIS]
Layers = Annotated[tuple[Annotated[int | str, PlainValidator(_layers)], ...], *_AXIS]
Ratios = Annotated[tuple[Annotated[StrictFloat, Field(ge=1, allow_inf_nan=False)], ...], *_AXIS]
AccumulationSteps = Annotated[tuple[Annotated[int | str, PlainValidator(_accumulation_steps)], ...], *_AXIS]
Precisions = Annotated[tuple[Precision, ...], *_AXIS]


class SweepAxes(_Strict):
    """Every axis of one part of the sweep; a case is one element of their product."""

    workload: Names = ("synthetic",)
    encoder: Names = ("minilm",)
    layers: Layers = ("all",)
    """The encoder's first so many layers, or "all"."""
    batch_size: Counts = (32,)
    """Users."""
    history_length: Counts = (50,)
    text_length: Counts = (32,)
    item_repetition_ratio: Ratios = (1.0, 4.0, 16.0)
    method: Names = ("e2e", "e2e_unique", "single_step", "multi_step")
    accumulation_steps: AccumulationSteps = (16,)
    precision: Precisions = ("float32",)
    engine: Names = ("eager",)


class Sweep(SweepAxes):
    """`[sweep]`: the axes, and the parts that replace some of them; without parts the sweep is one part."""

    part: tuple[SweepAxes, ...] = ()

    def parts(self) -> tuple[SweepAxes, ...]:
        """The sweep as independent products."""
        shared = {name: getattr(self, name) for name in SweepAxes.model_fields}
        own: list[dict[str, Any]] = [part.model_dump(exclude_unset=True) for part in self.part] or [{}]
        return tuple(SweepAxes.model_construct(**{**shared, **axes}) for axes in own)

    @field_serializer("part")
    def _own_axes(self, parts: tuple[SweepAxes, ...]) -> list[dict[str, Any]]:
        return [part.model_dump(mode="json", exclude_unset=True) for part in parts]


class Config(_Strict):
    """bench.toml with its preset and overrides applied."""

    run: RunSettings = RunSettings()
    model: ModelSettings = ModelSettings()
    sweep: Sweep = Sweep()
    workload: dict[str, Any] = {}
    """Per workload, its module's `Settings`."""
    method: dict[str, dict[str, Any]] = {}
    """Per method, keyword arguments of its class's `Settings`."""
