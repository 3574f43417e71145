"""bench.toml as frozen, validated values: one model per table, loaded with a preset and overrides on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_serializer,
)

from bench.configuration import checks
from bench.configuration.gate_settings import GateSettings
from bench.configuration.method_settings import AUTO
from bench.configuration.problems import fields_at, nearest, sentence
from bench.configuration.toml import Source, merge, parse_file, parse_override, place_of
from bench.configuration.train_settings import TrainSettings
from bench.configuration.values import Count, EncoderName, Seconds, Table, as_list, is_steps
from bench.errors import ConfigError

Precision = Literal["float64", "float32", "tf32", "bf16"]
DeviceKind = Literal["cpu", "cuda"]


_AXIS = BeforeValidator(as_list), Field(min_length=1)
Names = Annotated[tuple[StrictStr, ...], *_AXIS]


class RunSettings(Table):
    """`[run]`: how every measurement of the run is taken."""

    seed: Annotated[StrictInt, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dropout: Literal["off", "shared"] = "off"
    padding: Literal["max_length", "longest"] = "max_length"
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Annotated[StrictFloat, Field(gt=0)] = 1e-4
    """Of trainings."""
    measured_learning_rate: Annotated[StrictFloat, Field(gt=0)] = 1e-8
    """Of measured steps: so small that weights stay what they were. Windows go round a few batches; a model that has
    learned these by heart has gradients near zero, and products of such numbers draw less power: on a GPU at its power
    cap every step is then faster, by more than methods differ (docs/measuring-power.md)."""
    max_grad_norm: Annotated[StrictFloat, Field(gt=0)] | None = None
    deterministic: StrictBool = False
    """Whether torch may use deterministic algorithms only: the same run twice gives the same bits, more slowly."""
    blocks: Count = 1
    """Sets of fresh processes per case, at least. More than one, or a canary, makes them paired: see `paired`."""
    max_blocks: Count = 20
    """Paired blocks per case at most; they end earlier where every speed-up is known to within half_width."""
    half_width: Annotated[StrictFloat, Field(gt=0, lt=1)] = 0.015
    """Half of the 95 % interval of a speed-up, relative, that is narrow enough."""
    rounds: Count = 8
    """Windows that each process of a paired block takes, in turn with the others."""
    canary: StrictBool = False
    """Whether each paired block times e2e a second time, which should come out as fast as the first."""
    memory: Literal["same", "solo"] = "solo"
    """Where paired blocks' peaks come from: a process that had the device to itself, or the timed one."""
    case_budget_s: Seconds = 600.0
    """Time for the paired blocks of a case: none beyond `blocks` begins where it would take longer."""
    samples: Count = 5
    """Timed windows of a worker, unpaired."""
    min_samples: Count = 3
    """Windows taken even where budget_s is spent."""
    window_s: Seconds = 0.1
    """Shortest timed window; short steps are repeated to fill it."""
    window_steps: Count | None = None
    """Steps of every window, whatever they take, rounded up to whole intervals, each on a new batch. None goes by
    window_s, and round a few of the log's most typical batches: the same for every line of a case, but for those that
    accumulate or keep encodings."""
    lead_in_s: Annotated[StrictFloat, Field(ge=0)] = 0.2
    """Untimed steps before each window of paired blocks on a GPU at its power cap: its clock is then this method's, and
    not that of the one before."""
    settled_window_s: Seconds = 1.0
    """Shortest timed window there: a GPU may cut its clock once a second, and every window is to hold one cut."""
    min_warmup_steps: Count = 2
    max_warmup_steps: Count = 96
    budget_s: Seconds = 20.0
    """Time for one worker's warm-up and samples."""
    timeout_s: Seconds = 300.0
    """A worker that takes longer is ended and recorded as `timeout`."""
    world_size: Count | None = None
    """Processes that train together in every case: `sweep.world_size` for the whole sweep, whatever it says itself."""
    missing_gpus: Literal["refuse", "leave_out"] = "refuse"
    """Cases with more processes than there are GPUs: an error, or left out, which is said."""
    sharding: Literal["none", "zero1", "fsdp2"] = "none"
    """What several processes keep in parts: nothing, the optimizer's state (ZeRO-1), or encoder and all (FSDP2)."""
    gradient_dtype: Literal["float32", "bf16"] = "float32"
    """What gradients travel in between processes; they are added in float32 where they are copied. Of three and
    more processes the sums travel in it as well."""
    gradient_sums: Literal["copies", "collectives"] = "copies"
    """How the engine fast sums them: by the GPUs' copy engines, where the GPUs of one host read each other's memory, or
    by collectives."""
    hosts: Count = 1
    """Hosts that a case's processes are spread over; all but this one run torchrun (docs/several-gpus.md)."""
    rendezvous: StrictStr = ""
    """Where several hosts meet, HOST:PORT on this one; empty: a free port of this host, which is enough for one."""
    plugins: Annotated[tuple[StrictStr, ...], BeforeValidator(as_list)] = ()
    """Importable packages whose files are methods, besides those that exist here."""

    @property
    def paired(self) -> bool:
        """Whether a case is measured in blocks of processes that take turns, instead of one process at a time."""
        return self.blocks > 1 or self.canary


class LoraSettings(Table):
    """`[model.lora]`: the adapters of sweep.adapter = "lora"."""

    rank: Count = 16
    alpha: Annotated[StrictFloat, Field(gt=0)] = 32.0
    """What they add is multiplied by alpha / rank."""
    targets: Names = ("all-linear",)
    """Names, or ends of names, of the linears that get one; "all-linear": every one."""


class ModelSettings(Table):
    """`[model]`: what sits on the encodings."""

    candidates: Annotated[StrictInt, Field(ge=2)] = 5
    """C = 1 + npratio: the clicked item and its sampled negatives."""
    pooling: Literal["auto", "last", "mean", "cls", "max", "attention"] = "auto"
    """auto: as a sentence-transformers folder says, prompt, dense layers, normalisation and longest text included; the
    last token of other causal models, the mean of all others."""
    lora: LoraSettings = LoraSettings()
    base: EncoderName | None = None
    """The encoder that a folder's adapters belong to, in place of the one that it names."""


def _layers(value: Any) -> Any:
    if value == "all" or (type(value) is int and value >= 1):
        return value
    raise ValueError('expected a number of layers of at least 1, or "all"')


def _accumulation_steps(value: Any) -> Any:
    if is_steps(value) or value == AUTO:
        return value
    raise ValueError('expected a whole number of at least 1, a fraction of an epoch such as "0.5E", or "auto"')


Encoders = Annotated[tuple[EncoderName, ...], *_AXIS]
Counts = Annotated[tuple[Count, ...], *_AXIS]
Layers = Annotated[tuple[Annotated[int | str, PlainValidator(_layers)], ...], *_AXIS]
Ratios = Annotated[tuple[Annotated[StrictFloat, Field(ge=1, allow_inf_nan=False)], ...], *_AXIS]
AccumulationSteps = Annotated[tuple[Annotated[int | str, PlainValidator(_accumulation_steps)], ...], *_AXIS]
Precisions = Annotated[tuple[Precision, ...], *_AXIS]
Ways = Annotated[tuple[Literal["local", "global", "auto"], ...], *_AXIS]
Adapters = Annotated[tuple[Literal["none", "lora"], ...], *_AXIS]


class SweepAxes(Table):
    """Every axis of one part of the sweep; a case is one element of their product."""

    workload: Names = ("synthetic",)
    encoder: Encoders = ("minilm",)
    cf_module: Names = ("nrms",)
    layers: Layers = ("all",)
    """The encoder's first so many layers, or "all"."""
    batch_size: Counts = (32,)
    """Users."""
    history_length: Counts = (50,)
    text_length: Counts = (32,)
    item_repetition_ratio: Ratios = (1.0, 4.0)
    method: Names = ("e2e", "e2e_unique", "single_step", "multi_step")
    accumulation_steps: AccumulationSteps = (16,)
    precision: Precisions = ("float32",)
    engine: Names = ("eager",)
    world_size: Counts = (1,)
    """Processes that train together, each on batch_size users of its own and, where there are GPUs, on one of them."""
    deduplicate: Ways = ("local",)
    adapter: Adapters = ("none",)
    """What of the encoder is trained: all, or adapters as `[model.lora]` says."""


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


class TrainSweep(Sweep):
    """`[train.sweep]`: what `gram-bench train` compares, by the same axes."""

    workload: Names = ("movielens",)
    method: Names = ("e2e", "single_step", "multi_step", "frozen", "ids_only")
    accumulation_steps: AccumulationSteps = (10, "0.5E", "1E")


class Train(TrainSettings):
    """`[train]`."""

    sweep: TrainSweep = TrainSweep()


class Config(Table):
    """bench.toml with its preset and overrides applied."""

    run: RunSettings = RunSettings()
    model: ModelSettings = ModelSettings()
    sweep: Sweep = Sweep()
    workload: dict[str, Any] = {}
    """Per workload, its module's `Settings`."""
    method: dict[str, dict[str, Any]] = {}
    """Per method, keyword arguments of its class's `Settings`."""
    gate: GateSettings = GateSettings()
    train: Train = Train()

    def training(self) -> Config:
        """The same with the sweep of `[train]` in the place of the measured one."""
        return self.model_copy(update={"sweep": self.train.sweep})


def presets() -> dict[str, str]:
    """Names of the presets, and the comment that opens each of their files."""
    files = sorted(_preset_folder().glob("*.toml"))
    return {file.stem: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for file in files}


def load(path: Path | None, preset: str, overrides: Sequence[str], device_kind: DeviceKind) -> Config:
    """The configuration of a run: the file (None: the defaults), then the preset, then every `table.key=value`.

    An overridden axis of the sweep holds in every part of it, and so does `run.world_size` wherever it is set.
    `run.device` of the result is `device_kind`.
    Raises ConfigError, which names file, line and key.
    """
    base = [_read_file(path)] if path is not None else []
    base.append(_read_preset(preset).under(device_kind))
    changes = [parse_override(override) for override in overrides]
    world_size = _table(merge([*base, *changes]).get("run")).get("world_size")
    if isinstance(world_size, int):
        changes.append(Source({"sweep": {"world_size": [world_size]}}, {}))
    values = merge([Source(_without_axes(merge(base), changes), {}), *changes])
    return _validated(values, [*base, *changes], device_kind)


def requested_device(path: Path | None, overrides: Sequence[str]) -> Literal["auto", "cpu", "cuda"]:
    """`run.device` of file and overrides: it is needed before the preset, which depends on the device."""
    sources = [_read_file(path)] if path is not None else []
    sources += [parse_override(override) for override in overrides]
    return _parsed({"run": merge(sources).get("run", {})}, sources).run.device


def restore(values: dict[str, Any]) -> Config:
    """The configuration that a run's `run.json` holds; raises ConfigError where it is none of this version's."""
    return _validated(values, [])


def _preset_folder() -> Path:
    return Path(__file__).parents[1] / "presets"


def _read_preset(name: str) -> Source:
    if name not in presets():
        raise ConfigError(f'there is no preset "{name}"; {nearest(name, presets())}')
    file = _preset_folder() / f"{name}.toml"
    return parse_file(file.read_text(encoding="utf-8"), f"preset {file.name}")


def _read_file(path: Path) -> Source:
    try:
        return parse_file(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it ({error.strerror}); give --config a TOML file.") from error


def _without_axes(values: dict[str, Any], changes: Sequence[Source]) -> dict[str, Any]:
    """`values` whose sweep parts leave out every axis that a change sets for the whole sweep, `[train]`'s likewise."""
    values = _without_swept(values, [change.values for change in changes])
    train = _table(values.get("train"))
    own = _without_swept(train, [_table(change.values.get("train")) for change in changes])
    return values if own is train else {**values, "train": own}


def _without_swept(values: dict[str, Any], changes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    axes = {axis for change in changes for axis in _table(change.get("sweep"))}
    sweep = _table(values.get("sweep"))
    parts = sweep.get("part")
    if not axes or not isinstance(parts, list):
        return values
    kept = [{axis: value for axis, value in _table(part).items() if axis not in axes} for part in parts]
    return {**values, "sweep": {**sweep, "part": kept}}


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _validated(values: dict[str, Any], sources: Sequence[Source], device_kind: DeviceKind | None = None) -> Config:
    """The parsed configuration for a device, its names and cases checked against what exists."""
    config = _parsed(values, sources)
    if device_kind is not None:
        config = config.model_copy(update={"run": config.run.model_copy(update={"device": device_kind})})
    try:
        config = config.model_copy(update={"workload": checks.workload_settings(config, sources)})
        checks.check(config)
    except checks.Fault as fault:
        raise ConfigError(_at(fault.path, sources) + str(fault)) from fault
    return config


def _parsed(values: dict[str, Any], sources: Sequence[Source]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = first["loc"]
        raise ConfigError(_at(path, sources) + sentence(first, fields_at(Config, path[:-1]), path)) from error


def _at(path: tuple[str | int, ...], sources: Sequence[Source]) -> str:
    place = place_of(path, sources)
    return f"{place}: " if place else ""
