"""The command line: `gram-bench run | train | resume | verify | profile | report | compare | gate | reference | ...`.

Exit codes: 0 passed, 1 the harness failed, 2 usage or configuration, 3 regression or not exact, 4 inconclusive under
--strict, 5 nothing was measured, 130 Ctrl-C.
Nothing here imports torch before it has to: mistakes are reported at once.
"""

import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from bench.commands import session
from bench.commands.session import Request
from bench.configuration import sweep
from bench.errors import BenchError, Interrupted, UsageError
from bench.results.store import ResultsError
from reports.plain_signs import write_in_plain_signs

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


CaseOption = Annotated[
    str | None,
    typer.Option("--case", metavar="N | AXIS=VALUE,...", help="Which case: its number in run --dry-run, or axes."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Where run directories are made.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A directory that a run made: runs/latest, say.")]


def _request(
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file; bench.toml of this folder if left out.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="smoke: a minute; quick: a few; full: the file as it is. If left out: full with --config or on a GPU, "
            "else quick.",
        ),
    ] = None,
    device: Annotated[Device | None, typer.Option("--device", help="Where to measure; run.device if left out.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Changes one value, sweep.batch_size=[16,32] for one."),
    ] = None,
) -> Request:
    """What the options say that commands on a configuration have in common."""
    return Request(config, preset, device.value if device else None, tuple(changes or ()))


_REQUESTED = tuple(inspect.signature(_request, eval_str=True).parameters.values())
_DEBUG = inspect.Parameter(
    "debug",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
)


def _command(name: str | None = None) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Makes a function a command, which ends with an exit code: an error becomes one sentence on stderr.

    Every command has --debug, for an error's traceback; one with a parameter `asked` has the options of `_request`.
    """

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        own = dict(inspect.signature(function, eval_str=True).parameters)
        requested = _REQUESTED if own.pop("asked", None) else ()

        @functools.wraps(function)
        def ended(*, debug: bool, **options: Any) -> None:
            try:
                if requested:
                    options["asked"] = _request(**{each.name: options.pop(each.name) for each in requested})
                code = function(**options) or 0
            except (BenchError, ResultsError) as error:
                _end(error.exit_code, str(error), debug)
            except KeyboardInterrupt:
                _end(Interrupted.exit_code, "interrupted", debug)
            except Exception as error:  # a bug of ours: one sentence all the same
                _end(1, f"the harness failed: {type(error).__name__}: {error} (--debug shows where)", debug)
            raise typer.Exit(code)

        options = [*requested[:-1], *own.values(), *requested[-1:], _DEBUG]
        ended.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        ended.__annotations__ = {each.name: each.annotation for each in options}
        return app.command(name)(ended)

    return register


def _end(code: int, sentence: str, debug: bool) -> NoReturn:
    """Ends the program from within an exception's handler."""
    if debug:
        traceback.print_exc()
    print(f"gram-bench: {sentence}", file=sys.stderr)  # typer.echo writes UTF-8 to a terminal that knows ASCII only
    raise typer.Exit(code)


@_command()
def run(
    asked: Request,
    out: OutOption = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be measured, and stop.")] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Measure this part of the sweep only; `merge` joins the parts."),
    ] = None,
) -> None:
    """Measure a sweep and render its report."""
    plan = session.resolve(replace(asked, shard=shard, elsewhere=dry_run))
    console, progress = Console(), Console(stderr=True)
    _warn(progress, plan.warnings())
    from bench.commands import preflight

    if dry_run:
        from bench.commands.dry_run import print_plan

        print_plan(plan, preflight.check(plan.config, progress, dry=True), console)
        return
    preflight.check_writable(out)
    session.begin(plan)
    preflight.check(plan.config, progress)
    run_dir = session.start(plan, out)
    session.say(progress, f"{plan.title}; results go to {run_dir}")
    session.measure(plan.config, plan.items, run_dir, progress)
    session.report(run_dir, console)


@_command()
def train(
    asked: Request,
    out: OutOption = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and stop.")] = False,
) -> None:
    """Train every method until it gets no better: quality against wall-clock, and a report."""
    from bench.commands import training as trainings

    plan, items = trainings.resolve(replace(asked, elsewhere=dry_run))
    console, progress = Console(), Console(stderr=True)
    _warn(progress, trainings.warnings(plan.config))
    from bench.commands import preflight

    if dry_run:
        encodings = preflight.check(plan.config.training(), progress, for_training=True, dry=True)
        trainings.print_plan(plan, items, encodings, console)
        return
    preflight.check_writable(out)
    session.begin(plan, "train")
    preflight.check(plan.config.training(), progress, for_training=True)
    run_dir = session.start(plan, out, "train", len(items))
    session.say(progress, f"{plan.title}; results go to {run_dir}")
    trainings.train(plan.config, items, run_dir, progress)
    session.report(run_dir, console)


@_command()
def merge(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Runs of one sweep's shards.")],
    out: OutOption = Path("runs"),
) -> None:
    """Make one run of several that measured parts of a sweep, and render its report."""
    from bench.commands.merging import merge as join

    console, progress = Console(), Console(stderr=True)
    run_dir, warnings = join(run_dirs, out)
    _warn(progress, warnings)
    session.say(progress, f"merged into {run_dir}")
    session.report(run_dir, console)


@_command()
def resume(run_dir: RunDir) -> None:
    """Finish an interrupted run, repeating nothing, and render its report."""
    from bench.commands import training as trainings

    console, progress = Console(), Console(stderr=True)
    if session.known_run(run_dir).kind == "train":
        settings, todo, warnings = trainings.reopen(run_dir)
        _warn(progress, warnings)
        trainings.train(settings, todo, run_dir, progress)
    else:
        config, items, warnings = session.reopen(run_dir)
        _warn(progress, warnings)
        session.measure(config, items, run_dir, progress)
    session.report(run_dir, console)


def _warn(console: Console, warnings: list[str]) -> None:
    for warning in warnings:
        session.say(console, f"warning: {warning}")


@_command()
def verify(asked: Request) -> int:
    """Check in float64 that the exact methods are exact, on your encoder and data; exit code 3 if one is not."""
    plan = session.resolve(asked)
    session.check_methods(plan)
    session.check_encoders(plan.config)
    from bench.commands import preflight

    preflight.read(plan.config, Console(stderr=True))
    from bench.verify.report import verify as examine

    console = Console(stderr=True)
    report = examine(plan.config, plan.device_kind, say=lambda case: console.print(f"verifying {case}", style="dim"))
    report.print_table(Console())
    return 0 if report.passed else NOT_EXACT


@_command()
def profile(
    asked: Request,
    case: CaseOption = None,
    out: Annotated[Path, typer.Option("--out", help="Where traces and profile.json go.")] = Path("runs/profile"),
) -> None:
    """Where does a step's time go? Phases, kernels and the distance to the floor, for every line of one case."""
    plan = session.resolve(asked)
    items = sweep.lines_of_case(plan.items, case)
    if items[0].case.world_size > 1:
        raise UsageError("profile looks into one process: choose a case with world_size=1 by --case.")
    session.check_methods(plan)
    session.check_encoders(plan.config)
    session.make_folder(out)
    from bench.commands import preflight

    preflight.read(plan.config, Console(stderr=True))
    from bench.commands.profiling import profile as examine

    console = Console()
    console.print(f"{plan.title}: {items[0].case}", highlight=False)
    examine(plan.config, items, out, console)
    console.print(f"traces and profile.json: {out}", highlight=False)


@_command()
def plan(
    asked: Request,
    case: CaseOption = None,
    out: Annotated[Path, typer.Option("--out", help="Where plan.json and plan.html go.")] = Path("runs/plan"),
    memory_limit: Annotated[
        float | None,
        typer.Option("--memory-limit", metavar="GIB", help="What a batch may take; left out: the device's."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Leave a configuration that runs the recommended line."),
    ] = None,
) -> None:
    """Before training: does it pay for this log, which batch fits, how long does it take, what to run?"""
    from bench.commands import planning

    resolved = session.resolve(replace(asked, elsewhere=True))
    forecast, recommended = planning.plan(resolved, case, out, memory_limit, Console(stderr=True))
    console = Console()
    planning.print_forecast(forecast, console)
    session.say(console, f"Plan: {planning.render(out, forecast)}")
    if write is not None:
        planning.write(recommended, write, forecast.recommendation, forecast.command)
        session.say(console, f"Configuration: {write}; gram-bench run --config {write}")


@_command()
def calibrate(
    asked: Request,
    case: CaseOption = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Time for all engines of the case.")] = 90.0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where coefficients go; the cache if left out.")
    ] = None,
) -> None:
    """Measure a few short steps on this device, so that `plan` knows what it reaches."""
    from bench.commands import planning

    resolved = session.resolve(asked)
    session.check_methods(resolved)
    planning.calibrate(resolved, case, seconds, out, Console(), Console(stderr=True))


@_command()
def report(run_dir: RunDir) -> None:
    """Render a run's page, pictures and tables again."""
    session.known_run(run_dir)
    session.report(run_dir, Console())


@_command()
def gate(
    run_dir: RunDir,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="A reference's file, or a run directory to hold the run against.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file whose [gate] counts; the run's own if left out.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with 4 where the verdict is INCONCLUSIVE.")] = False,
    allow_mismatch: Annotated[
        bool,
        typer.Option("--allow-mismatch", help="Accept a reference of another device, driver, torch or power limit."),
    ] = False,
) -> int:
    """Hold a run to its floors and a reference: 0 passed or inconclusive, 3 regression, 5 nothing was measured."""
    from bench.commands import gating as gate_session

    consoles = Console(), Console(stderr=True)
    return gate_session.gate(
        run_dir, *consoles, reference=reference, config=config, strict=strict, allow_mismatch=allow_mismatch
    )


@_command()
def reference(
    run_dir: RunDir,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to; bench/references/DEVICE.json if left out.")
    ] = None,
    allow_untrusted: Annotated[
        bool, typer.Option("--allow-untrusted", help="Accept a run whose canary leaves its limit.")
    ] = False,
) -> None:
    """Make a run the reference that later ones are held against, as it came out."""
    from bench.commands import gating as gate_session

    gate_session.make_reference(run_dir, out, Console(), allow_untrusted=allow_untrusted)


@_command()
def compare(
    run_a: Annotated[Path | None, typer.Argument(metavar="RUN_A", help="The earlier run's directory.")] = None,
    run_b: Annotated[Path | None, typer.Argument(metavar="RUN_B", help="The later run's directory.")] = None,
    history: Annotated[
        Path | None, typer.Option("--history", metavar="DIR", help="Plot the speed-ups of all runs below this folder.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PNG", help="Where the plot goes; DIR/history.png if left out.")
    ] = None,
) -> None:
    """Show two runs side by side, what differs between their machines first; or a speed-up over many runs."""
    from bench.commands import gating as gate_session

    if history is not None and run_a is None:
        gate_session.history(history, out, Console())
    elif history is None and run_a is not None and run_b is not None:
        gate_session.compare(run_a, run_b, Console())
    else:
        raise UsageError("give two run directories, RUN_A RUN_B, or --history DIR.")


@_command()
def doctor() -> int:
    """Is this machine fit to measure on?"""
    from bench.commands.doctor import examine, is_fit, print_findings

    findings = examine()
    print_findings(findings, Console())
    return 0 if is_fit(findings) else 1


@_command("list")
def list_() -> None:
    """Print what exists: methods, engines, encoders, CF modules, workloads, metrics, presets."""
    from bench.commands.listing import print_entries

    print_entries(Console())


def main() -> None:
    """Runs the command line and exits."""
    write_in_plain_signs(sys.stdout, sys.stderr)
    app()
