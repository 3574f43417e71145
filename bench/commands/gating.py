"""`gram-bench gate`, `reference` and `compare`, from run directories to files, tables and an exit code."""

import os
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from bench.commands import session
from bench.configuration.config import load as load_config
from bench.configuration.gate_settings import GateSettings
from bench.configuration.problems import fields_at, sentence
from bench.errors import BenchError, Interrupted, NothingMeasured, UsageError
from bench.gating import references
from bench.gating.gate import judge, strictly
from bench.gating.references import Reference
from bench.results import files, store
from bench.results.schema import RunInfo
from bench.results.verdicts import GATE_FILE, GateReport

JUNIT_FILE = "gate.xml"
MARKDOWN_FILE = "gate.md"
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""The variable that names the file whose Markdown GitHub shows next to a workflow's run."""


def gate(
    run_dir: Path,
    console: Console,
    progress: Console,
    *,
    reference: Path | None = None,
    config: Path | None = None,
    strict: bool = False,
    allow_mismatch: bool = False,
) -> int:
    """Judges the run, measures an inconclusive one further where that is set, writes and prints the verdicts.

    Returns the exit code. Raises UsageError where there is nothing to hold the run against, or the reference is of
    another machine.
    """
    from reports.verdicts.gate import print_report

    info = session.known_run(run_dir)
    settings = gate_settings(info, config)
    held = references.read(reference) if reference else None
    if held is not None and not allow_mismatch:
        references.refuse_mismatch(held, info.environment)
    report = judge(store.load(run_dir), settings, held)
    if held is None and not _floors(settings, info) and report.code != "nothing-measured":
        raise UsageError(
            f"{run_dir}: there is nothing to hold it against; give --reference FILE, or set a [[gate.floor]] for "
            f"device {info.environment.device_kind} in the configuration."
        )
    if settings.retry and may_settle(report):
        report = _measured_further(run_dir, settings, held, report, progress)
    report = strictly(report) if strict else report
    _write(run_dir, report)
    print_report(report, console)
    kept = references.place(info.environment)
    if held is None and kept.is_file():
        session.say(console, f"A reference of this device is there: --reference {kept}")
    return report.exit_code


def gate_settings(info: RunInfo, config: Path | None) -> GateSettings:
    """`[gate]` of a file, or as the run was measured with; raises UsageError where it is damaged."""
    kind = info.environment.device_kind
    if config is not None:
        return load_config(config, "full", (), kind).gate
    try:
        return GateSettings.model_validate(info.config.get("gate", {}))
    except ValidationError as error:
        first = error.errors()[0]
        path = ("gate", *first["loc"])
        reason = sentence(first, fields_at(GateSettings, first["loc"][:-1]), path)
        raise UsageError(f"{info.run_id}/{store.INFO_FILE}: {reason}") from error


def _floors(settings: GateSettings, info: RunInfo) -> bool:
    return any(floor.device in (None, info.environment.device_kind) for floor in settings.floor)


def may_settle(report: GateReport) -> bool:
    """Whether more blocks could decide it: what has no interval was not measured for a gate at all."""
    undecided = report.of("INCONCLUSIVE")
    return report.verdict == "INCONCLUSIVE" and any(
        check.verdict == "INCONCLUSIVE" and check.change_low is not None for line in undecided for check in line.checks
    )


def _measured_further(
    run_dir: Path, settings: GateSettings, held: Reference | None, report: GateReport, progress: Console
) -> GateReport:
    """The verdicts after the undecided cases were measured in twice their blocks; the old ones where they can't be."""
    undecided = [line.case for line in report.of("INCONCLUSIVE") if line.case]
    session.say(progress, f"{report.verdict}: {report.reason}")
    try:
        session.double(run_dir, undecided, progress)
    except Interrupted:
        raise
    except BenchError as error:
        note = f"the undecided cases could not be measured further: {str(error).rstrip('.')}"
        return report.model_copy(update={"notes": (*report.notes, note)})
    again = judge(store.load(run_dir), settings, held)
    return again.model_copy(update={"notes": (*again.notes, "the undecided cases were measured in twice their blocks")})


def _write(run_dir: Path, report: GateReport) -> None:
    """gate.json, gate.xml, gate.md, the page with its new section, and GitHub's step summary."""
    from reports.page import render
    from reports.verdicts.gate import as_junit, as_markdown

    text = as_markdown(report)
    files.replace(run_dir / GATE_FILE, (report.model_dump_json(indent=1) + "\n").encode())
    files.replace(run_dir / JUNIT_FILE, as_junit(report))
    files.replace(run_dir / MARKDOWN_FILE, text.encode())
    if (run_dir / "report.html").exists():
        render(run_dir)
    if summary := os.environ.get(STEP_SUMMARY):
        with suppress(OSError), open(summary, "a", encoding="utf-8") as file:
            file.write(text)


def make_reference(run_dir: Path, out: Path | None, console: Console, *, allow_untrusted: bool = False) -> None:
    """Makes the run the reference of its device, as it came out.

    Raises UsageError for a run whose canary leaves its limit, unless that is allowed.
    """
    run = session.load_run(run_dir)
    reference = references.make(run)
    if not allow_untrusted:
        references.refuse_untrusted(reference, run_dir)
    path = out or references.place(run.info.environment)
    existed = path.exists()
    references.write(reference, path)
    compared = sum(line.speed_up is not None for line in reference.lines)
    single = [line for line in reference.lines if line.speed_up and line.speed_up.standard_error is None]
    session.say(console, f"{'Replaced' if existed else 'Wrote'} {path}: {compared} speed-ups of run {reference.run_id}")
    if single:
        session.say(
            console,
            f"warning: {len(single)} of them were measured in one block and have no uncertainty, so nothing can be "
            "held against them; measure with --preset gate",
        )
    if reference.canary is None:
        session.say(
            console,
            "warning: the run has no canary, so whether e2e was as fast as itself is not known; measure with --preset "
            "gate",
        )
    elif not reference.canary.trusted:
        session.say(console, f"warning: its canary leaves its limit, e2e against itself is {reference.canary.in_words}")
    if len(run.records) < run.info.planned_records:
        session.say(console, f"warning: the run is unfinished; `gram-bench resume {run_dir}` adds the rest")


def compare(run_a: Path, run_b: Path, console: Console) -> None:
    """What differs between two runs: places and settings first, then every line. Refuses nothing."""
    from reports.verdicts.comparison import print_comparison

    print_comparison(session.load_run(run_a), session.load_run(run_b), console)


def history(folder: Path, out: Path | None, console: Console) -> None:
    """A speed-up over all runs below `folder`: a table, and a picture."""
    from reports.verdicts.history import collect, draw, print_history

    if not folder.is_dir():
        raise UsageError(f"{folder}: not a directory; give the one that holds the run directories.")
    found = collect(folder)
    for warning in found.warnings:
        session.say(console, f"warning: {warning}")
    if not found.points:
        raise NothingMeasured(f"{folder} holds no run with a speed-up.")
    path = out or folder / "history.png"
    files.replace(path, draw(found))
    print_history(found, console)
    session.say(console, f"Plot: {path}")
