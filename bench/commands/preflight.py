"""What can be refused before anything is measured: texts that an encoder cannot take, files and splits of real logs.

A worker would find each of these too, one measurement at a time, and leave a run directory without a number behind.
"""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.commands import session
from bench.commands.session import say
from bench.configuration import checks, sweep
from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.encoders import _base as encoders
from bench.errors import ConfigError, UsageError
from bench.inputs import assets
from bench.results.analysis import left_out
from bench.workloads import _base as workloads
from bench.workloads._base import WorkloadRequest
from bench.workloads._log.real_log import no_tokenizer


def check(config: Config, console: Console, *, for_training: bool = False, dry: bool = False) -> dict[str, str]:
    """Raises UsageError, and AssetError; tells on `console` what of a log is left out. Returns how encoders encode.

    for_training: the sweep is that of `[train]`, with what it holds out. dry: nothing is downloaded, and what that
    would need is not checked. A log that comes as an asset has what a measurement needs, and is looked at for what a
    training holds out.
    """
    _check_encoders(config, "train.sweep" if for_training else "sweep")
    encodings = session.check_encoders(config, download=not dry)
    if not dry:
        session.fetch_assets(config, console)
    said: set[str] = set()
    for case in _logs(config):
        module = workloads.load(case.workload)
        own = hasattr(module, "prepare")
        present = all(assets.is_present(assets.ASSETS[name]) for name in module.ASSETS)
        if not (own or (for_training and (present or not dry))):
            continue
        try:
            _tell(config, case, console, said)
            _build(config, case, for_training)
        except ValueError as error:
            raise UsageError(str(error)) from error
    return encodings


def read(config: Config, console: Console) -> None:
    """Fetches assets, reads the sweep's logs into the cache and tells what of them is left out; raises as `check`."""
    session.fetch_assets(config, console)
    said: set[str] = set()
    for case in _logs(config):
        _tell(config, case, console, said)


def check_writable(out: Path) -> None:
    """Raises UsageError where no run directory can be made below `out`; makes nothing."""
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise UsageError(f"{out}: cannot write ({existing} is no folder); choose another --out")


def _cases(config: Config) -> Iterator[Case]:
    for part in config.sweep.parts():
        yield from sweep.cases(part)


def _check_encoders(config: Config, place: str) -> None:
    """Raises ConfigError for a text that is too long, or real texts without a tokenizer to read them.

    Of encoders that are known without being loaded; of the user's own `session.check_encoders` says it.
    """
    for case in dict.fromkeys(replace(case, batch_size=1, item_repetition_ratio=None) for case in _cases(config)):
        limits = _limits(case.encoder)
        if limits is None:
            continue
        if case.text_length > limits.longest_text:
            raise ConfigError(
                f"{place}.text_length: {case.text_length} is more than the {limits.longest_text} tokens that "
                f"{case.encoder} takes; lower it"
            )
        if getattr(workloads.load(case.workload), "REAL_TEXTS", False) and not limits.has_tokenizer:
            raise ConfigError(f"{place}.encoder: {no_tokenizer(case.workload, case.encoder)}")


@functools.cache
def _limits(encoder: str) -> encoders.Limits | None:
    return encoders.limits(encoder)


def _logs(config: Config) -> list[Case]:
    """A case for each real log as a CF module's task reads it: for each history length that with the largest batch."""
    found: dict[tuple[Any, ...], Case] = {}
    for case in _cases(config):
        if getattr(workloads.load(case.workload), "REAL_TEXTS", False):
            key = (case.workload, checks.task_of(case.cf_module), case.history_length)
            if key not in found or found[key].batch_size < case.batch_size:
                found[key] = case
    return list(found.values())


def _tell(config: Config, case: Case, console: Console, said: set[str]) -> None:
    """Reads a log's files, unless they are an asset, and says what of them was left out, nothing of it twice."""
    task = checks.task_of(case.cf_module)
    name = case.workload if _reads_alike(config, case.workload) else f"{case.workload}, {_TASKS[task]}"
    for sentence in left_out.sentences(name, session.prepare(config, case.workload, task, console)):
        if sentence not in said:
            say(console, f"warning: {sentence}")
            said.add(sentence)


_TASKS = {"ranking": "to be ranked", "response": "as responses"}


def _reads_alike(config: Config, workload: str) -> bool:
    """Whether all CF modules of the sweep have the log read for one task."""
    return len({checks.task_of(case.cf_module) for case in _cases(config) if case.workload == workload}) == 1


def _build(config: Config, case: Case, for_training: bool) -> None:
    """Lets a log be split and batched as a worker would, but for its texts."""
    axes = workloads.axes_of(case, config.model.candidates, checks.task_of(case.cf_module))
    request = WorkloadRequest(
        **vars(axes),
        seed=config.run.seed,
        vocab_size=1,
        pad_token_id=0,
        closing_token_id=None,
        hold_out=config.train.hold_out if for_training else None,
        without_texts=True,
    )
    workloads.load(case.workload).build(config.workload[workloads.split(case.workload)[0]], request)
