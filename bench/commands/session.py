"""A run from its configuration to its report: the steps that `gram-bench run` and `resume` share."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench import registry
from bench.configuration import checks, sweep
from bench.configuration.case import Case
from bench.configuration.config import Config, load, requested_device, restore
from bench.configuration.problems import key_name
from bench.configuration.sweep import WorkItem
from bench.errors import ConfigError, Interrupted, NothingMeasured, UsageError
from bench.inputs import contents
from bench.machine import environment
from bench.progress import ProgressView
from bench.results import store
from bench.results.schema import Environment, RunInfo, RunKind
from bench.results.store import LoadedRun
from bench.workloads import _base as workloads
from bench.workloads._base import Task

if TYPE_CHECKING:
    from bench.configuration.config import DeviceKind

DEFAULT_CONFIG = Path("bench.toml")
DEFAULT_PRESETS = {"cpu": "quick", "cuda": "full"}
"""What bench.toml is measured as where neither --config nor --preset says more."""


@dataclass(frozen=True)
class Request:
    """What the user asked for on the command line, None and () where nothing was said."""

    config: Path | None = None
    preset: str | None = None
    device: str | None = None
    overrides: tuple[str, ...] = ()
    shard: str | None = None
    elsewhere: bool = False
    """Only to be looked at: a device that is asked for by name may be another machine's."""


@dataclass(frozen=True)
class Plan:
    """A request resolved on this machine: everything that is to be measured."""

    config: Config
    config_file: Path | None
    preset: str
    overrides: tuple[str, ...]
    items: tuple[WorkItem, ...]
    shard: str | None = None
    too_many: tuple[int, ...] = ()
    """Numbers of processes that were left out, since there are fewer GPUs."""

    @property
    def device_kind(self) -> DeviceKind:
        """Where it is measured."""
        return "cuda" if self.config.run.device == "cuda" else "cpu"

    @property
    def title(self) -> str:
        """Where the plan comes from, in one line."""
        part = f", shard {self.shard}" if self.shard else ""
        return f"{self.config_file or 'built-in defaults'}, preset {self.preset}, device {self.device_kind}{part}"

    def command(self, name: str) -> tuple[str, ...]:
        """The command line that asks for the same again, whatever its defaults are there."""
        file = ("--config", str(self.config_file)) if self.config_file else ()
        changes = tuple(word for override in self.overrides for word in ("--set", override))
        part = ("--shard", self.shard) if self.shard else ()
        return ("gram-bench", name, *file, "--preset", self.preset, "--device", self.device_kind, *part, *changes)

    def warnings(self) -> list[str]:
        """What a reader of the results will miss."""
        without = [part for part in self.config.sweep.parts() if "e2e" not in part.method]
        found = ["a part of the sweep leaves out e2e, so it will have no speed-ups"] if without else []
        if self.too_many:
            sizes = " and ".join(map(str, self.too_many))
            found.append(f"cases of {sizes} processes are left out: they need a GPU each, and there are fewer")
        return found


def resolve(request: Request) -> Plan:
    """Reads and checks the configuration for the device that is asked for; raises UsageError."""
    file = request.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    asked: Any = request.device or requested_device(file, request.overrides)
    elsewhere = request.elsewhere and asked != "auto"
    kind = asked if elsewhere else environment.resolve_device(asked)
    preset = request.preset or ("full" if request.config else DEFAULT_PRESETS[kind])
    config = load(file, preset, request.overrides, kind)
    too_many: tuple[int, ...] = ()
    if not elsewhere:
        config, too_many = _on_gpus(config)
    items = sweep.shard_of(sweep.plan(config), request.shard)
    return Plan(config, file, preset, request.overrides, items, request.shard, too_many)


def _on_gpus(config: Config) -> tuple[Config, tuple[int, ...]]:
    """The configuration without cases of more processes than there are GPUs, and the numbers of processes left out.

    Raises ConfigError where there are such and run.missing_gpus refuses them, or where nothing would be left.
    """
    parts = config.sweep.parts()
    sizes = {size for part in parts for size in part.world_size}
    if config.run.device != "cuda" or max(sizes) == 1:
        return config, ()
    found = config.run.hosts * environment.visible_gpus()
    too_many = tuple(sorted(size for size in sizes if size > found))
    if not too_many:
        return config, ()
    if config.run.missing_gpus == "refuse" or len(too_many) == len(sizes):
        raise ConfigError(
            f"sweep.world_size: {too_many[-1]} processes need a GPU each, and there are {found} (run.hosts times this "
            'host\'s); lower it, spread it over more hosts, or leave such cases out with run.missing_gpus="leave_out".'
        )
    fitting = [(part, tuple(size for size in part.world_size if size <= found)) for part in parts]
    kept = tuple(part.model_copy(update={"world_size": sizes}) for part, sizes in fitting if sizes)
    return config.model_copy(update={"sweep": config.sweep.model_copy(update={"part": kept})}), too_many


def check_methods(plan: Plan) -> None:
    """Lets the methods judge their settings, which imports torch; raises ConfigError."""
    try:
        checks.check_methods_agree(plan.config)
    except checks.Fault as fault:
        raise ConfigError(f"{plan.config_file or '--set'}, [{key_name(fault.path)}]: {fault}") from fault


def begin(plan: Plan, kind: RunKind = "run") -> None:
    """Has workers' process started, which imports while this one goes on, and methods judge their settings."""
    from bench.processes import fork_server

    fork_server.warm_fork_server(*([fork_server.SCORING] if kind == "train" else []))
    check_methods(plan)


def check_encoders(config: Config, *, download: bool = True) -> dict[str, str]:
    """Loads the user's own encoders of the sweep, which imports torch; how each encoder of the sweep encodes, in words.

    download: whether those of the hub that are not here yet are fetched. Raises ConfigError.
    """
    from bench.encoders._examine import examine

    try:
        return examine(config, download=download)
    except ValueError as error:
        raise ConfigError(f"sweep.encoder: {error}") from error


def start(plan: Plan, out: Path, kind: RunKind = "run", planned: int | None = None) -> Path:
    """Makes the run's directory below `out` and writes run.json; raises UsageError where either can't be.

    planned: how many records there will be; the plan's measurements if left out.
    """
    begin(plan, kind)
    try:
        run_dir = store.create_run_dir(out, plan.preset if kind == "run" else f"{kind}-{plan.preset}")
        info = RunInfo(
            kind=kind,
            run_id=run_dir.name,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            command=plan.command(kind),
            preset=plan.preset,
            config=plan.config.model_dump(mode="json"),
            environment=environment.describe(plan.device_kind),
            planned_records=len(plan.items) if planned is None else planned,
            shard=plan.shard,
        )
        store.write_info(run_dir, info)
    except store.UnwritableResults as error:
        raise UsageError(str(error)) from error
    return run_dir


def reopen(run_dir: Path) -> tuple[Config, tuple[WorkItem, ...], list[str]]:
    """What an interrupted run was to measure, and warnings about the machine; raises UsageError.

    A run holds the measurements of one machine, one log and one encoder: a different device, driver or torch is
    refused, and so is other content of what it reads. Raises DamagedResults where what it holds can't be trusted.
    """
    loaded = load_run(run_dir)
    config, changed = same_machine(run_dir)
    unknown = contents.refuse_changed(config, run_dir, loaded.records)
    return config, sweep.shard_of(sweep.plan(config), loaded.info.shard), [*loaded.warnings, *changed, *unknown]


def same_machine(run_dir: Path) -> tuple[Config, list[str]]:
    """A run's configuration, and what has changed since it was started; raises UsageError on another machine."""
    info = known_run(run_dir)
    config = restore(info.config)
    environment.resolve_device(info.environment.device_kind)
    now = environment.describe(info.environment.device_kind)
    different = _differences(info.environment, now, ("device", "driver", "torch"))
    if different:
        raise UsageError(
            f"{run_dir} was measured elsewhere ({'; '.join(different)}) and one run holds one machine; start a new run."
        )
    changes = _differences(info.environment, now, ("device_uuid", "transformers", "git_sha", "cpu_cores"))
    return config, [f"since this run was started, {change}" for change in changes]


def double(run_dir: Path, cases: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Measures these cases in twice the blocks that they have, on the machine they were measured on.

    Raises UsageError on another machine, and where nothing of the plan is among them.
    """
    config, _, _ = reopen(run_dir)
    records = store.load(run_dir).records
    wanted: dict[int, list[Case]] = {}
    for case in dict.fromkeys(Case(**axes) for axes in cases):
        present = {record.block for record in records if record.case == case.axes()}
        wanted.setdefault(2 * len(present), []).append(case)
    for blocks, chosen in wanted.items():
        most, budget_s = max(blocks, config.run.max_blocks), 2 * config.run.case_budget_s
        longer = config.run.model_copy(update={"blocks": blocks, "max_blocks": most, "case_budget_s": budget_s})
        extended = config.model_copy(update={"run": longer})
        items = tuple(item for item in sweep.plan(extended) if item.case in chosen)
        if not items:
            raise UsageError(f"{run_dir}: its configuration plans none of these cases")
        say(console, f"Measuring {len(chosen)} undecided case{'s' * (len(chosen) > 1)} again, in {blocks} blocks")
        measure(extended, items, run_dir, console)


def known_run(run_dir: Path) -> RunInfo:
    """The run.json of a run directory; raises UsageError where there is none."""
    if not (run_dir / store.INFO_FILE).is_file():
        raise UsageError(f"{run_dir}: not a run directory, it has no {store.INFO_FILE}; give one that a run printed.")
    return store.read_info(run_dir)


def load_run(run_dir: Path) -> LoadedRun:
    """The run of a run directory; raises UsageError where there is none."""
    known_run(run_dir)
    return store.load(run_dir)


def _differences(then: Environment, now: Environment, names: Sequence[str]) -> list[str]:
    def value(facts: Environment, name: str) -> Any:
        return facts.libraries.get(name) if name in ("torch", "transformers") else getattr(facts, name)

    changed = [(name, value(then, name), value(now, name)) for name in names]
    return [f"{name} was {old} and is {new}" for name, old, new in changed if old != new]


def make_folder(out: Path) -> None:
    """Makes the folder that a command writes to, before it fetches or measures anything; raises UsageError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot write ({error.strerror}); choose another --out") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise UsageError(f"{out}: cannot write ({os.strerror(errno.EACCES)}); choose another --out")


def fetch_assets(config: Config, console: Console) -> None:
    """Has every asset and log of the sweep in the cache before anything is timed.

    Raises AssetError, and UsageError where a data file does not hold what it should.
    """
    from bench.inputs import assets

    parts = config.sweep.parts()
    modules = [(checks.ENCODERS, encoder.partition(":")[0]) for part in parts for encoder in part.encoder]
    modules += [(checks.WORKLOADS, workload.partition(":")[0]) for part in parts for workload in part.workload]
    for name in dict.fromkeys(asset for module in modules for asset in registry.load(*module).ASSETS):
        assets.fetch(name, functools.partial(say, console))
    logs = {(name, checks.task_of(module)) for part in parts for name in part.workload for module in part.cf_module}
    for name, task in sorted(logs):
        prepare(config, name, task, console)


def prepare(config: Config, workload: str, task: Task, console: Console) -> Mapping[str, Any]:
    """Has in the cache what a workload would take long to make; what reading it left out. Raises UsageError."""
    module, (scheme, argument) = workloads.load(workload), workloads.split(workload)
    if not hasattr(module, "prepare"):
        return {}
    try:
        said = functools.partial(say, console)
        return module.prepare(config.workload[scheme], argument=argument, task=task, say=said) or {}
    except ValueError as error:
        raise UsageError(str(error)) from error


def measure(config: Config, items: Sequence[WorkItem], run_dir: Path, console: Console) -> None:
    """Takes every measurement that `run_dir` lacks, with progress on `console`; Ctrl-C says how to go on."""
    from bench.processes import fork_server
    from bench.running import manager, recording

    try:
        fork_server.warm_fork_server()
        fetch_assets(config, console)
        contents.keep(config, run_dir)
        with ProgressView(console) as view:
            manager.run(config, run_dir, items, view)
        cost = recording.overhead(store.load(run_dir).records)
        if cost is not None:
            say(console, cost)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what is measured is kept, `gram-bench resume {run_dir}` takes the rest."
        ) from None


def report(run_dir: Path, console: Console) -> None:
    """Renders the report, prints the headline table and where the page lies.

    Raises NothingMeasured where no measurement, or no training, succeeded; the page, which says why, is rendered even
    then.
    """
    from reports import page, rendering, terminal

    document = page.read(run_dir)
    rendered = rendering.write(run_dir, document)
    console.print(terminal.shown(document, console.width))
    say(console, f"Report: {rendered.page}")
    if document.nothing is not None:
        raise NothingMeasured(document.nothing)


def say(console: Console, sentence: str) -> None:
    """Prints a plain sentence: nothing in it is markup, and no line is broken where the window ends."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)
