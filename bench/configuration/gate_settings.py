"""`[gate]` of the configuration: what a run is held to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from bench.configuration.values import EncoderName, Table
from bench.results.analysis.lines import LineResult


def _share(value: Any) -> Any:
    if value == "auto" or (type(value) in (int, float) and 0 < value < 1):
        return value
    raise ValueError('expected a fraction between 0 and 1, or "auto"')


Share = Annotated[StrictFloat | Literal["auto"], BeforeValidator(_share)]


class Floor(Table):
    """A speed-up over e2e that a method must reach, in every line that fits all that is named here."""

    method: StrictStr
    at_least: Annotated[StrictFloat, Field(gt=0)]
    device: Literal["cpu", "cuda"] | None = None
    """Where it is promised; left out: everywhere."""
    engine: StrictStr | None = None
    accumulation_steps: StrictInt | StrictStr | None = None
    workload: StrictStr | None = None
    encoder: EncoderName | None = None
    layers: StrictInt | None = None
    batch_size: StrictInt | None = None
    history_length: StrictInt | None = None
    text_length: StrictInt | None = None
    item_repetition_ratio: StrictFloat | None = None
    """As asked for."""
    precision: StrictStr | None = None
    cf_module: StrictStr | None = None
    world_size: StrictInt | None = None
    deduplicate: StrictStr | None = None
    adapter: StrictStr | None = None

    def conditions(self) -> dict[str, Any]:
        """What a line must be, by name; the method among it."""
        values = self.model_dump(exclude={"at_least", "device"})
        return {name: value for name, value in values.items() if value is not None}

    def fits(self, line: LineResult) -> bool:
        """Whether the floor is about this line."""
        return all(line.fact(name) == value for name, value in self.conditions().items())

    def __str__(self) -> str:
        where = ", ".join(f"{name}={_plain(value)}" for name, value in self.conditions().items() if name != "method")
        return f"{self.method} at least {self.at_least:g} times as fast as e2e" + (f" where {where}" if where else "")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class GateSettings(Table):
    """`[gate]`."""

    tolerance: Share = "auto"
    """The part of a speed-up that may be lost against a reference; auto: 3 % where nothing but power moved the clocks,
    else 5 %."""
    canary_limit: Share = "auto"
    """How far e2e may lie from itself before nothing timed is believed; auto: 1 % on a GPU, 3 % on a processor."""
    retry: StrictBool = True
    """Whether an inconclusive run is measured in twice its blocks, once, where it was measured on this machine."""
    floor: tuple[Floor, ...] = ()
