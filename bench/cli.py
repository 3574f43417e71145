"""The command line: `gram-bench run | resume | verify | report | doctor | list`.

Exit codes: 0 passed, 1 the harness failed, 2 usage or configuration, 3 not exact, 5 nothing was measured, 130 Ctrl-C.
Nothing here imports torch before it has to: mistakes are told at once.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from bench import session
from bench.errors import BenchError, Interrupted
from bench.results.store import ResultsError

NOT_EXACT = 3

app = typer.Typer(
    help="What GRAM saves when a content encoder is fine-tuned inside a recommender, measured honestly.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Device(StrEnum):
    """Values of --device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A TOML file; bench.toml of this folder if left out.")
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="smoke: a minute; quick: ten; full: the file as it is. If left out: full with --config or on a GPU, "
        "else quick.",
    ),
]
DeviceOption = Annotated[Device | None, typer.Option("--device", help="Where to measure; run.device if left out.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Changes one value, sweep.batch_size=[16,32] for one."),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A directory that a run made: runs/latest, say.")]


def _told(command: Callable[..., int | None]) -> Callable[..., None]:
    """Ends a command with an exit code: an error becomes one sentence on stderr, with its traceback under --debug."""

    @functools.wraps(command)
    def told(*, debug: bool, **options: Any) -> None:
        try:
            code = command(debug=debug, **options) or 0
        except (BenchError, ResultsError) as error:
            _end(error.exit_code, str(error), debug)
        except KeyboardInterrupt:
            _end(Interrupted.exit_code, "interrupted", debug)
        except Exception as error:  # a bug of ours: one sentence all the same
            _end(1, f"the harness failed: {type(error).__name__}: {error} (--debug shows where)", debug)
        raise typer.Exit(code)

    return told


def _end(code: int, sentence: str, debug: bool) -> NoReturn:
    """Ends the program from within an exception's handler."""
    if debug:
        traceback.print_exc()
    typer.echo(f"gram-bench: {sentence}", err=True)
    raise typer.Exit(code)


def _request(
    config: Path | None, preset: str | None, device: Device | None, changes: list[str] | None
) -> session.Request:
    return session.Request(config, preset, device.value if device else None, tuple(changes or ()))


@app.command()
@_told
def run(
    config: ConfigOption = None,
    preset: PresetOption = None,
    device: DeviceOption = None,
    out: Annotated[Path, typer.Option("--out", help="Where run directories are made.")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be measured, and stop.")] = False,
    changes: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure a sweep and render its report."""
    plan = session.resolve(_request(config, preset, device, changes))
    console, progress = Console(), Console(stderr=True)
    for warning in plan.warnings():
        session.say(progress, f"warning: {warning}")
    if dry_run:
        from bench.dry_run import print_plan

        print_plan(plan, console)
        return
    run_dir = session.start(plan, out)
    session.say(progress, f"{plan.title}; results go to {run_dir}")
    session.measure(plan.config, plan.items, run_dir, progress)
    session.report(run_dir, console)


@app.command()
@_told
def resume(run_dir: RunDir, debug: DebugOption = False) -> None:
    """Finish an interrupted run, repeating nothing, and render its report."""
    config, items, warnings = session.reopen(run_dir)
    console, progress = Console(), Console(stderr=True)
    for warning in warnings:
        session.say(progress, f"warning: {warning}")
    session.measure(config, items, run_dir, progress)
    session.report(run_dir, console)


@app.command()
@_told
def verify(
    config: ConfigOption = None,
    preset: PresetOption = None,
    device: DeviceOption = None,
    changes: SetOption = None,
    debug: DebugOption = False,
) -> int:
    """Check in float64 that the exact methods are exact, on your encoder and data; exit code 3 if one is not."""
    plan = session.resolve(_request(config, preset, device, changes))
    session.check_methods(plan)
    session.fetch_assets(plan.config, Console(stderr=True))
    from bench.verify import verify as examine

    report = examine(plan.config, plan.device_kind)
    report.print_table(Console())
    return 0 if report.passed else NOT_EXACT


@app.command()
@_told
def report(run_dir: RunDir, debug: DebugOption = False) -> None:
    """Render a run's page, pictures and tables again."""
    session.known_run(run_dir)
    session.report(run_dir, Console())


@app.command()
@_told
def doctor(debug: DebugOption = False) -> int:
    """Is this machine fit to measure on?"""
    from bench.doctor import examine, is_fit, print_findings

    findings = examine()
    print_findings(findings, Console())
    return 0 if is_fit(findings) else 1


@app.command(name="list")
@_told
def list_(debug: DebugOption = False) -> None:
    """Print what exists: methods, engines, encoders, CF modules, workloads, presets."""
    from bench.catalogue import print_entries

    print_entries(Console())


def main() -> None:
    """Runs the command line and exits."""
    app()
