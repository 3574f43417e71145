"""What a configuration measures, known by content: hashes of logs and encoders, and the refusal to mix two of a name.

A run notes them in run.json before its first measurement. Every worker hashes what it read itself, before and after it
did, so that nothing goes under a hash that is not its own; a file that has not changed is hashed once
(`bench.inputs.hashes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.encoders import _base as encoders
from bench.errors import UsageError
from bench.inputs import hashes
from bench.results import differences, store
from bench.results.differences import Changed
from bench.results.schema import Inputs, LineFields, Parts, RunInputs
from bench.workloads import _base as workloads

if TYPE_CHECKING:
    from bench.configuration.case import Case
    from bench.configuration.config import Config

Files = Mapping[str, "Path | Sequence[Path] | str"]


def of_run(config: Config) -> RunInputs:
    """Of every log and encoder of the sweep; empty parts for what has not been fetched yet. Raises UsageError."""
    parts = config.sweep.parts()
    return RunInputs(
        logs={name: _hashed(log_files(config, name)) for part in parts for name in part.workload},
        encoders={name: _hashed(encoder_files(config, name)) for part in parts for name in part.encoder},
    )


def of_case(config: Config, case: Case) -> Inputs:
    """Of one case's log and encoder; raises UsageError where a file can't be read."""
    return Inputs(log=_hashed(log_files(config, case.workload)), encoder=_hashed(encoder_files(config, case.encoder)))


def log_files(config: Config, workload: str) -> Files:
    """What a workload reads, by part."""
    scheme, argument = workloads.split(workload)
    module = workloads.load(workload)
    found: Files = module.contents(config.workload.get(scheme) or module.Settings(), argument)
    return found


def encoder_files(config: Config, encoder: str) -> Files:
    """What an encoder is made of, by part."""
    return encoders.files_by_part(encoder, config.model.base)


def _hashed(files: Files) -> Parts:
    return {part: _hash(content) for part, content in files.items()}


def _hash(content: Path | Sequence[Path] | str) -> str:
    if isinstance(content, str):
        return hashes.of_text(content)
    return hashes.of_files([content] if isinstance(content, Path) else content)


def read_as(before: Inputs, after: Inputs) -> Inputs:
    """What was read between two looks at it: where they differ nobody knows, and the parts hold both hashes."""
    return differences.joined((before, after))


def refuse_changed(config: Config, run_dir: Path, measured: Sequence[LineFields]) -> list[str]:
    """Raises UsageError where a log or an encoder is another one than the run has measured; returns what is unknown."""
    then, now = differences.known(store.read_info(run_dir), measured), of_run(config)
    different = differences.changed(then, now)
    if different:
        changes = "; ".join(_where(config, each) for each in different)
        raise UsageError(
            f"{run_dir}: since this run was started, {changes}; a run measures the same throughout: put "
            "back what it was started with, or start a new run."
        )
    unknown = differences.unknown(then, RunInputs(logs=then.logs | now.logs, encoders=then.encoders | now.encoders))
    if not measured or not unknown:
        return []
    return [f"this run keeps no hash of {', '.join(unknown)}, so whether it is still what was measured is not known"]


def keep(config: Config, run_dir: Path) -> None:
    """Notes in run.json what the run is about to measure, unless that is known; raises BenchError."""
    info = store.read_info(run_dir)
    if info.inputs == RunInputs() and not _has_results(run_dir):
        store.write_info(run_dir, info.model_copy(update={"inputs": of_run(config)}))


def _has_results(run_dir: Path) -> bool:
    from bench.results import training

    files = (run_dir / store.RECORDS_FILE, run_dir / training.POINTS_FILE)
    return any(file.exists() and file.stat().st_size for file in files)


def check_measured(run_dir: Path, measured: Sequence[LineFields]) -> None:
    """Raises UsageError where records were measured on something else than their run was started with."""
    different = differences.changed(differences.known(store.read_info(run_dir), ()), differences.known_of(measured))
    if different:
        changes = "; ".join(f"{each} became another one" for each in different)
        raise UsageError(
            f"{run_dir}: while it was measured, {changes}; what was measured before is kept: put it back and "
            f"`gram-bench resume {run_dir}`, or start a new run."
        )


def _where(config: Config, change: Changed) -> str:
    """`the log of table is another one: interactions (/data/log.csv)`."""
    files = log_files(config, change.name) if change.kind == "log" else encoder_files(config, change.name)
    parts = [f"{part} ({place})" if (place := _place(files.get(part))) else part for part in change.parts]
    return f"{change.subject} has become another one: {', '.join(parts)}"


def _place(content: Path | Sequence[Path] | str | None) -> str | None:
    if isinstance(content, Path):
        return str(content)
    return ", ".join(map(str, content)) if content and not isinstance(content, str) else None
