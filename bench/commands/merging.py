"""`gram-bench merge`: one run of several that measured parts of one sweep on machines of one kind."""

import shlex
from collections.abc import Hashable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.configuration import sweep
from bench.configuration.config import restore
from bench.errors import UsageError
from bench.results import differences, store
from bench.results.identity import case_title
from bench.results.schema import Environment, Record, RunInfo, RunInputs
from bench.results.store import LoadedRun
from bench.workloads import _base as workloads

SAME = ("device", "device_kind", "driver")
"""What the machines must have in common; their libraries all, too."""


def merge(run_dirs: Sequence[Path], out: Path) -> tuple[Path, list[str]]:
    """A new run below `out` with every record of the runs; its directory, and warnings.

    Raises UsageError where the runs have other configurations or machines, or measured the same differently. Files may
    lie elsewhere on each machine where their content is known to be the same: the merged run has the first one's
    places.
    """
    if len(run_dirs) < 2:
        raise UsageError("merge takes at least two run directories.")
    first, *others = [store.load(folder) for folder in run_dirs]
    loaded = [first, *(_in_places_of(first, other) for other in others)]
    for other in loaded[1:]:
        _check_alike(first, other)
    records: dict[Hashable, tuple[Record, Path]] = {}
    for run in loaded:
        for record in run.records:
            held, place = records.setdefault(record.key, (record, run.run_dir))
            if held != record:
                raise UsageError(
                    f"{run.run_dir}: {case_title(record.case)} · {record.label}, block {record.block}, was measured in "
                    f"{place} as well, and differently; leave one of the two runs out."
                )
    planned = len(sweep.plan(restore(first.info.config)))
    run_dir = store.create_run_dir(out, f"{first.info.preset}-merged")
    info = RunInfo(
        run_id=run_dir.name,
        started_at=min((run.info.started_at for run in loaded), default=datetime.now(UTC).isoformat()),
        command=("gram-bench", "merge", *(str(folder) for folder in run_dirs)),
        preset=first.info.preset,
        config=first.info.config,
        environment=_common([run.info.environment for run in loaded]),
        planned_records=max(planned, len(records)),
        merged_from=tuple(run.info.run_id for run in loaded),
        inputs=_joined([_inputs(run) for run in loaded]),
    )
    store.write_info(run_dir, info)
    if records:
        store.append(run_dir, *(record for record, _ in records.values()))
    warnings = [warning for run in loaded for warning in run.warnings]
    return run_dir, warnings + [warning for other in loaded[1:] for warning in _unknown(first, other)]


def _inputs(run: LoadedRun) -> RunInputs:
    return differences.known(run.info, run.records)


def _joined(several: Sequence[RunInputs]) -> RunInputs:
    """What all of the runs know; they agree where they know the same."""
    joined = RunInputs()
    for inputs in several:
        joined = RunInputs(logs=inputs.logs | joined.logs, encoders=inputs.encoders | joined.encoders)
    return joined


def _unknown(first: LoadedRun, other: LoadedRun) -> list[str]:
    """Logs and encoders that one of the runs keeps no hash of: runs of before there were any have none."""
    known = [_inputs(first), _inputs(other)]
    names = differences.unknown(*known) if any(each != RunInputs() for each in known) else ["log and encoder"]
    if not names:
        return []
    return [
        f"whether {other.run_dir} was measured on the same as {first.run_dir} is not known, since not both keep hashes "
        f"of it: {', '.join(names)}"
    ]


def _in_places_of(first: LoadedRun, other: LoadedRun) -> LoadedRun:
    """The other run as if its files lay where the first one's do, as far as their content is the same."""
    here, there = _inputs(first), _inputs(other)
    names = differences.renamed(there.encoders, here.encoders)
    config = _with_names(other.info.config, names)
    for workload, parts in there.logs.items():
        scheme = workloads.split(workload)[0]
        own, mine = config.get("workload", {}).get(scheme), first.info.config.get("workload", {}).get(scheme)
        if own and mine and parts == here.logs.get(workload):
            config["workload"] = {**config["workload"], scheme: _with_places(own, mine)}
    encoders = {names.get(name, name): parts for name, parts in other.info.inputs.encoders.items()}
    inputs = RunInputs(logs=other.info.inputs.logs, encoders=encoders)
    info = other.info.model_copy(update={"config": config, "inputs": inputs})
    records = tuple(
        record.model_copy(update={"case": {**record.case, "encoder": names[encoder]}})
        if (encoder := str(record.case.get("encoder"))) in names
        else record
        for record in other.records
    )
    return replace(other, info=info, records=records)


def _with_names(value: Any, names: dict[str, str]) -> Any:
    """The same values with every text that is one of the names replaced."""
    if isinstance(value, dict):
        return {key: _with_names(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_names(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def _with_places(own: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """A workload's settings with another's in the place of every path."""
    return {
        key: mine.get(key) if _is_place(value) and _is_place(mine.get(key)) else value for key, value in own.items()
    }


def _is_place(value: Any) -> bool:
    several = value if isinstance(value, list | tuple) else [value]
    return bool(several) and all(isinstance(each, str) and Path(each).is_absolute() for each in several)


def _check_alike(first: LoadedRun, other: LoadedRun) -> None:
    for run in (first, other):
        if run.info.kind != "run":
            raise UsageError(f"{run.run_dir}: holds no measurements of a sweep, so there is nothing to merge.")
    different = differences.changed(_inputs(first), _inputs(other))
    if different:
        raise UsageError(
            f"{other.run_dir}: not measured on the same as {first.run_dir}: {'; '.join(map(str, different))}; a run "
            "holds one log and one encoder of a name, so leave one of the two out."
        )
    if restore(first.info.config) != restore(other.info.config):
        raise UsageError(
            f"{other.run_dir}: its configuration is another than that of {first.run_dir}; shards of one sweep are "
            f"started by the same command ({shlex.join(first.info.command)}) but for --shard."
        )
    here, there = first.info.environment, other.info.environment
    apart = [name for name in SAME if getattr(here, name) != getattr(there, name)]
    apart += ["libraries"] if here.libraries != there.libraries else []
    if apart:
        raise UsageError(
            f"{other.run_dir}: measured on another kind of machine than {first.run_dir} ({', '.join(apart)}); one run "
            "holds one kind."
        )


def _common(environments: Sequence[Environment]) -> Environment:
    """The first one, without what the others do not share."""
    first = environments[0]
    differing = {
        name: None
        for name in ("device_uuid", "git_sha", "git_dirty", "power_limit_w")
        if any(getattr(other, name) != getattr(first, name) for other in environments)
    }
    return first.model_copy(update=differing)
