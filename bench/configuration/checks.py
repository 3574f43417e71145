"""What a parsed configuration can still get wrong: names that nothing carries, settings and cases that cannot be."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ValidationError

from bench import registry
from bench.configuration import method_settings, sweep
from bench.configuration.problems import fields_at, key_name, nearest, sentence
from bench.inputs.item_kinds import refuse_other_items
from bench.methods import registered_class
from bench.workloads import _base as workloads

if TYPE_CHECKING:
    from bench.configuration.config import Config, Sweep
    from bench.configuration.toml import Source

ENCODERS = "bench.encoders"
WORKLOADS = "bench.workloads"
ENGINES = "gram_core.engines"
METRICS = "bench.metrics"
CF_MODULES = "gram_core.cf_modules"

Path = tuple[str | int, ...]


class Fault(ValueError):
    """A sentence, and the path of the key that is to blame."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def workload_settings(config: Config, sources: Sequence[Source]) -> dict[str, Any]:
    """Every workload of the sweep or with a table of its own, with its module's validated `Settings`.

    A plain value of `[workload]` holds for every workload of the sweep that has such a setting. Sources are taken in
    their order, each source's plain values before its tables, so that the last word is the last one written.
    """
    swept = {
        workloads.split(name)[0] for _, table in _sweeps(config) for part in table.parts() for name in part.workload
    }
    for name in sorted({*swept, *(key for key, value in config.workload.items() if _is_table(value))}):
        path: Path = ("workload", name) if name in config.workload else _scheme_at(config, name)
        _known(path, name, WORKLOADS, "workload")
    models = {name: registry.load(WORKLOADS, name).Settings for name in sorted(swept)}
    _check_plain(config.workload, models)
    values: dict[str, dict[str, Any]] = {name: {} for name in models}
    origins: dict[Path, Path] = {}
    for written in (source.values.get("workload", {}) for source in sources) if sources else [config.workload]:
        for key, value in written.items():
            for name in (name for name, model in models.items() if not _is_table(value) and key in model.model_fields):
                values[name][key] = value
                origins["workload", name, key] = ("workload", key)
        for name, table in written.items():
            if _is_table(table):
                values.setdefault(name, {}).update(table if isinstance(table, dict) else table.model_dump())
                for key in values[name].keys() & dict(table).keys():
                    origins.pop(("workload", name, key), None)
    settings: dict[str, Any] = {}
    for name in sorted(values):
        try:
            settings[name] = _settings(registry.load(WORKLOADS, name).Settings, values[name], ("workload", name))
        except Fault as fault:
            raise Fault(origins.get(fault.path, fault.path), str(fault)) from fault
    return settings


def _check_plain(written: Mapping[str, Any], models: Mapping[str, type[BaseModel]]) -> None:
    """Raises Fault at a plain value that no workload of the sweep has a setting for."""
    known = {key for model in models.values() for key in model.model_fields}
    for key in (key for key, value in written.items() if not _is_table(value) and key not in known):
        raise Fault(
            ("workload", key),
            f"workload.{key}: no workload of a sweep ({', '.join(models)}) has such a setting; {nearest(key, known)}",
        )


def _is_table(value: Any) -> bool:
    return isinstance(value, dict | BaseModel)


def _scheme_at(config: Config, scheme: str) -> Path:
    return next(path for path, found in _swept(config, "workload") if workloads.split(found)[0] == scheme)


def check(config: Config) -> None:
    """Raises Fault at the first thing that does not exist or cannot be measured."""
    if config.run.paired and config.run.blocks > config.run.max_blocks:
        raise Fault(
            ("run", "blocks"),
            f"run.blocks = {config.run.blocks} is more than run.max_blocks = {config.run.max_blocks}; raise both.",
        )
    _check_hosts(config)
    methods = _methods(config)
    for path, name in _swept(config, "method"):
        _one_of(path, name, methods, "method")
    for path, name in _swept(config, "cf_module"):
        _known(path, name, CF_MODULES, "CF module")
    for path, name in _swept(config, "engine"):
        _known(path, name, ENGINES, "engine")
    for path, name in _swept(config, "encoder"):
        _check_encoder(path, name)
    for path, name in _swept(config, "adapter"):
        if name != "none" and find_spec("peft") is None:
            raise Fault(path, f'{key_name(path)}: "{name}" needs the package peft: pip install "gram-bench[lora]".')
    for name, table in config.method.items():
        _one_of(("method", name), name, methods, "method")
        _check_method_table(config, name, table)
    for number, floor in enumerate(config.gate.floor):
        _one_of(("gate", "floor", number, "method"), floor.method, methods, "method")
    _check_training(config)
    for place, swept in _sweeps(config):
        _check_cases(config, place, swept)
    for path, precision in _swept(config, "precision"):
        if precision == "tf32" and config.run.device == "cpu":
            raise Fault(path, "precision tf32 exists on CUDA devices only; choose float32 or bf16 on a processor.")


def check_methods_agree(config: Config) -> None:
    """Raises Fault where a method refuses the values of its table, of whatever type they are; imports torch."""
    for name, table in config.method.items():
        if table:
            with _blamed_on(("method", name)):
                method_settings.check_table(name, table, config.run.plugins)


def _check_hosts(config: Config) -> None:
    """Several hosts need a place to meet, and equally many processes each."""
    hosts = config.run.hosts
    if hosts > 1 and not config.run.rendezvous:
        raise Fault(("run", "rendezvous"), f"run.hosts = {hosts} needs run.rendezvous, HOST:PORT of this host.")
    for path, size in _swept(config, "world_size"):
        if size > 1 and size % hosts:
            raise Fault(path, f"{key_name(path)}: {size} processes do not divide among run.hosts = {hosts}.")
    if any(size > 1 for part in config.train.sweep.parts() for size in part.world_size):
        raise Fault(("train", "sweep", "world_size"), "train.sweep.world_size: gram-bench train trains in one process.")


def _sweeps(config: Config) -> tuple[tuple[Path, Sweep], ...]:
    """Both sweeps, that of `run` and that of `train`, and where each is."""
    return (("sweep",), config.sweep), (("train", "sweep"), config.train.sweep)


def _swept(config: Config, axis: str) -> Iterator[tuple[Path, Any]]:
    """Every value of an axis, wherever a sweep has it."""
    for place, table in _sweeps(config):
        for position, value in enumerate(getattr(table, axis)):
            yield (*place, axis, position), value
        for number, part in enumerate(table.part):
            if axis in part.model_fields_set:
                for position, value in enumerate(getattr(part, axis)):
                    yield (*place, "part", number, axis, position), value


def _known(path: Path, name: str, package: str, kind: str) -> None:
    _one_of(path, name, registry.names(package), kind)


def _one_of(path: Path, name: str, valid: Iterable[str], kind: str) -> None:
    if name not in valid:
        raise Fault(path, f'{key_name(path)}: there is no {kind} "{name}"; {nearest(name, valid)}')


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Turns a ValueError into a Fault at `path`."""
    try:
        yield
    except Fault:
        raise
    except ValueError as error:
        raise Fault(path, str(error)) from error


def _settings(model: type[BaseModel], table: Any, path: Path) -> BaseModel:
    try:
        return table if isinstance(table, model) else model.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = path + first["loc"]
        raise Fault(where, sentence(first, fields_at(model, first["loc"][:-1]), where)) from error


def _check_encoder(path: Path, name: str) -> None:
    scheme, _, argument = name.partition(":")
    _known(path, scheme, ENCODERS, "encoder")
    with _blamed_on(path):
        registry.load(ENCODERS, scheme).check(argument or None)


def _methods(config: Config) -> dict[str, str]:
    try:
        return method_settings.method_names(config.run.plugins)
    except ModuleNotFoundError as error:
        raise Fault(("run", "plugins"), f'run.plugins: there is no package "{error.name}" to import.') from error


def _check_method_table(config: Config, name: str, table: dict[str, Any]) -> None:
    fields = method_settings.setting_types(name, config.run.plugins)
    valid = [key for key in fields if key != method_settings.ACCUMULATION_STEPS]
    for key in table:
        path = ("method", name, key)
        if key == method_settings.ACCUMULATION_STEPS:
            raise Fault(path, f"method.{name}.{key} is an axis of the sweep; set sweep.{key} instead.")
        if key not in valid:
            raise Fault(path, f"unknown key method.{name}.{key}; {nearest(key, valid)}")
        with _blamed_on(path):
            method_settings.check_value(name, key, table[key], config.run.plugins)


def _check_training(config: Config) -> None:
    """What `[train]` names must exist, and a workload without held-out data has nothing to judge a training by."""
    _known(("train", "metric"), config.train.metric, METRICS, "metric")
    for path, name in _swept(config, "workload"):
        if path[0] == "train" and not registry.load(WORKLOADS, workloads.split(name)[0]).HOLDS_OUT:
            raise Fault(
                path,
                f"{key_name(path)}: {name} has nothing to evaluate, since its responses are drawn at random; train on "
                "a real log, such as movielens.",
            )


def _check_cases(config: Config, place: Path, table: Sweep) -> None:
    """place: where the sweep is in the configuration."""

    def at(number: int, axis: str) -> Path:
        own = bool(table.part) and axis in table.part[number].model_fields_set
        return (*place, "part", number, axis) if own else (*place, axis)

    for number, part in enumerate(table.parts()):
        for case in sweep.cases(part):
            with _blamed_on(at(number, "encoder")):
                refuse_other_items(case.workload, case.encoder)
            with _blamed_on(at(number, "workload" if case.item_repetition_ratio is None else "item_repetition_ratio")):
                scheme = workloads.split(case.workload)[0]
                axes = workloads.axes_of(case, config.model.candidates, task_of(case.cf_module))
                registry.load(WORKLOADS, scheme).check(config.workload[scheme], axes)
    _check_epochs(config, place, table)


def _check_epochs(config: Config, place: Path, table: Sweep) -> None:
    """A share of an epoch needs a workload that has one, or whose settings say how long it is; "auto" needs more than
    the few steps that a measurement takes."""
    steps = [(path, value) for path, value in _swept(config, "accumulation_steps") if path[: len(place)] == place]
    for path, value in steps:
        if value == method_settings.AUTO and place[0] != "train":
            raise Fault(
                path,
                'sweep.accumulation_steps: "auto" chooses the number of steps while it trains, which takes longer than '
                "a measurement; set train.sweep.accumulation_steps for `gram-bench train`, and give a number here.",
            )
    for part in table.parts():
        shares = [value for value in part.accumulation_steps if isinstance(value, str)]
        for name in part.workload if shares else ():
            if getattr(config.workload[workloads.split(name)[0]], "steps_per_epoch", True) is None:
                raise Fault(
                    next(path for path, value in steps if value == shares[0]),
                    f'{key_name((*place, "accumulation_steps"))}: "{shares[0]}" is a share of an epoch, and {name} has '
                    f"none; give a number of steps, or set workload.{name}.steps_per_epoch.",
                )


@cache
def task_of(cf_module: str) -> workloads.Task:
    """The task of a CF module: as it is declared without torch, else of its class."""
    declared = importlib.import_module(CF_MODULES).TASKS.get(cf_module)
    return cast(workloads.Task, declared or registered_class(registry.load(CF_MODULES, cf_module), cf_module).task)
