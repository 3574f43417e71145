"""`gram-bench merge`: one run of several that measured parts of one sweep on machines of one kind."""

from __future__ import annotations

import shlex
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.configuration import sweep
from bench.configuration.config import restore
from bench.errors import UsageError
from bench.results import store
from bench.results.lines import case_title
from bench.results.schema import Environment, Record, RunInfo

SAME = ("device", "device_kind", "driver")
"""What the machines must have in common; their libraries all, too."""


def merge(run_dirs: Sequence[Path], out: Path) -> tuple[Path, list[str]]:
    """A new run below `out` with every record of the runs; its directory, and warnings.

    Raises UsageError where the runs have other configurations or machines, or measured the same differently.
    """
    if len(run_dirs) < 2:
        raise UsageError("merge takes at least two run directories.")
    loaded = [store.load(folder) for folder in run_dirs]
    first = loaded[0]
    for other in loaded[1:]:
        _check_alike(first, other)
    records: dict[Hashable, tuple[Record, Path]] = {}
    for run in loaded:
        for record in run.records:
            held, place = records.setdefault(store.record_key(record), (record, run.run_dir))
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
    )
    store.write_info(run_dir, info)
    if records:
        store.append_all(run_dir, [record for record, _ in records.values()])
    return run_dir, [warning for run in loaded for warning in run.warnings]


def _check_alike(first: store.LoadedRun, other: store.LoadedRun) -> None:
    for run in (first, other):
        if run.info.kind != "run":
            raise UsageError(f"{run.run_dir}: holds no measurements of a sweep, so there is nothing to merge.")
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
