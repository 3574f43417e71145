"""`gram-bench plan` and `calibrate`, from a request to tables, files and a sentence."""

import multiprocessing
import shlex
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.commands import session
from bench.commands.session import Plan, say
from bench.configuration import sweep
from bench.configuration.case import Case
from bench.configuration.config import Config, Sweep
from bench.errors import UsageError
from bench.inputs.item_kinds import has_pictures
from bench.machine import environment
from bench.progress import duration
from bench.results import files, store
from bench.results.forecast import PLAN_FILE, CoefficientsUsed, Forecast, ForecastLine
from bench.results.schema import Environment
from bench.workloads._base import MalformedData

MEMORY_SHARE = 0.92
"""Of a device's memory that a batch may fill: the rest is the driver's, and what a fragmented allocator cannot use."""
INTERVALS: tuple[int | str, ...] = (4, 16)
SHARES: tuple[int | str, ...] = ("0.5E", "1E")
"""Accumulation steps besides the sweep's; shares where there is an epoch."""
ENGINES = ("eager", "fast")
WIDE = 100
"""Columns of text from which on every column is printed."""
GIB = 1 << 30


def plan(
    asked: Plan, case: str | None, out: Path, memory_limit_gib: float | None, progress: Console
) -> tuple[Forecast, str]:
    """The forecast of one case of the sweep, written to plan.json in `out`, and the recommended configuration.

    Raises UsageError where the case cannot be built, no coefficients are there for it, or a limit makes no sense.
    """
    if memory_limit_gib is not None and not memory_limit_gib > 0:
        raise UsageError(f"--memory-limit {memory_limit_gib:g}: give GiB, more than 0.")
    chosen, engines = _case(asked, case)
    session.check_methods(asked)
    session.check_encoders(asked.config)
    session.make_folder(out)
    session.fetch_assets(asked.config, progress)
    forecast = _forecast(asked, chosen, engines, memory_limit_gib, progress)
    try:
        files.replace(out / PLAN_FILE, (forecast.model_dump_json(indent=1) + "\n").encode())
    except store.UnwritableResults as error:
        raise UsageError(f"{out / PLAN_FILE}: cannot write ({error.why.strerror}); choose another --out") from error
    return forecast, configuration(asked.config, chosen, forecast.recommended)


def _case(asked: Plan, case: str | None) -> tuple[Case, tuple[str, ...]]:
    items = sweep.lines_of_case(asked.items, case)
    found = items[0].case
    if found.world_size > 1:
        raise UsageError("plan forecasts one process: choose a case with world_size=1 by --case.")
    if found.adapter != "none":
        raise UsageError(
            f"plan and calibrate know encoders that train whole, and this case has adapter={found.adapter}: measure it "
            "by gram-bench run, or choose another case by --case."
        )
    if has_pictures(found.workload):
        raise UsageError(
            f"plan and calibrate know encoders of texts, and {found.encoder} reads pictures: measure it by gram-bench "
            "run, or choose another case by --case."
        )
    return found, tuple(dict.fromkeys(item.line.engine for item in items))


def _forecast(
    asked: Plan, case: Case, engines: Sequence[str], memory_limit_gib: float | None, progress: Console
) -> Forecast:
    from bench.planning import advice, forecast, shapes
    from bench.planning.calibration import key_of

    config = asked.config
    facts = environment.describe(asked.device_kind)
    try:
        loaded = shapes.load(config, case)
        ready, missing = _engines(config, case, loaded, engines, facts, key_of)
        axes = _axes(asked, case)
        sizes = forecast.batch_sizes(case, axes["batch_size"])
        steps = _accumulation_steps(config, case, axes["accumulation_steps"])
        lines = forecast.lines_of(config, case, [engine.name for engine in ready], steps)
        say(progress, f"Counting {case.workload} for batches of {sizes[0]} to {sizes[-1]} users")
        counted, workload, possible, left_out = forecast.count_case(config, case, loaded, sizes, lines)
        ready = [
            replace(engine, shape=shapes.with_kept(engine.shape, config, case, workload.table)) for engine in ready
        ]
        cf = shapes.cf_shape(config, case, ready[0].shape.width)
    except MalformedData:
        raise
    except ValueError as error:
        raise UsageError(f"{case}: {error}") from error
    limit = _limit(memory_limit_gib, asked, facts, ready)
    caster = forecast.Forecaster(config, case, counted, cf, ready, limit)
    made = [caster.line(line, size) for size in possible for line in lines]
    counts = [caster.counts(size, 1) for size in possible]
    counts += [caster.counts(case.batch_size, each) for each in sorted({line.steps for line in made if line.steps > 1})]
    advised = advice.advise(made, [each for each in counts if each.steps == 1], case.batch_size, limit)
    return Forecast(
        case=case.axes(),
        device=facts.device if any(engine.chosen.own for engine in ready) else ready[0].chosen.calibration.key.device,
        device_kind=asked.device_kind,
        command=asked.command("plan"),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=loaded.description,
        users_read=counted.users,
        whole_epoch=counted.whole,
        steps_per_epoch=workload.steps_per_epoch,
        memory_limit_bytes=limit,
        counts=tuple(counts),
        lines=tuple(made),
        largest=tuple(caster.largest(line) for line in lines),
        coefficients=tuple(
            CoefficientsUsed(
                engine=engine.name,
                tier=engine.shape.tier,
                machine=engine.chosen.calibration.key.machine,
                own=engine.chosen.own,
                origin=engine.chosen.origin,
                measured_at=engine.chosen.calibration.measured_at,
                log_sd=engine.chosen.calibration.log_sd,
                notes=engine.chosen.notes,
            )
            for engine in ready
        ),
        gains=advised.gains,
        recommendation=advised.sentence,
        recommended=advised.line,
        left_out=(*missing, *left_out),
        config=config.model_dump(mode="json"),
    )


def _engines(
    config: Config, case: Case, loaded: Any, engines: Sequence[str], facts: Environment, key_of: Any
) -> tuple[list[Any], list[str]]:
    """The sweep's engines and ours, each with the nearest calibration; raises UsageError where none has one."""
    from bench.planning import coefficients, shapes
    from bench.planning.forecast import Engine

    known = [*coefficients.cached(), *coefficients.committed()]
    ready, missing = [], []
    for name in dict.fromkeys((*engines, *ENGINES)):
        shape = shapes.encoder_shape(config, case, name, loaded)
        chosen = coefficients.choose(key_of(config, case, shape, name, facts), known)
        if chosen is not None:
            ready.append(Engine(name, shape, chosen))
        elif name in engines:
            missing.append(f"engine {name}: no coefficients of a {shape.tier} encoder on {facts.device_kind}")
    if not ready:
        raise UsageError(
            f"there are no coefficients of {facts.device_kind} devices for {', '.join(engines)}; run `gram-bench "
            "calibrate` on the device that is to train."
        )
    return ready, missing


def _axes(asked: Plan, case: Case) -> dict[str, tuple[Any, ...]]:
    """Values of the parts of the sweep that the case belongs to."""
    parts = [part for part in asked.config.sweep.parts() if case in sweep.cases(part)]
    return {
        axis: tuple(dict.fromkeys(value for part in parts for value in getattr(part, axis)))
        for axis in ("batch_size", "accumulation_steps")
    }


def _accumulation_steps(config: Config, case: Case, swept: Sequence[int | str]) -> tuple[int | str, ...]:
    settings = config.workload[case.workload.partition(":")[0]]
    shares = SHARES if getattr(settings, "steps_per_epoch", True) is not None else ()
    return tuple(dict.fromkeys((*swept, *INTERVALS, *shares)))


def _limit(memory_limit_gib: float | None, asked: Plan, facts: Environment, engines: Sequence[Any]) -> float:
    """What a batch may take; raises UsageError where nobody knows the device's memory."""
    if memory_limit_gib is not None:
        return memory_limit_gib * GIB
    here = facts.host_memory_bytes if asked.device_kind == "cpu" else facts.device_memory_bytes
    known = here or next((engine.chosen.calibration.device_memory_bytes for engine in engines), None)
    if known is None:
        raise UsageError("the device's memory is not known; give --memory-limit GIB.")
    return MEMORY_SHARE * known


def configuration(config: Config, case: Case, line: ForecastLine | None) -> str:
    """bench.toml that runs the recommended line and e2e; the case as it is where nothing is recommended."""
    from reports import toml

    methods = tuple(dict.fromkeys(("e2e", line.method if line else "e2e")))
    axes: dict[str, Any] = {
        name: (value,) for name, value in case.axes().items() if value is not None and name != "layers"
    }
    axes |= {"layers": (case.layers or "all",), "method": methods, "part": ()}
    if line is not None:
        axes |= {"batch_size": (line.batch_size,), "engine": (line.engine,)}
        if line.asked_steps is not None:
            axes["accumulation_steps"] = (line.asked_steps,)
    scheme = case.workload.partition(":")[0]
    chosen = config.model_copy(
        update={
            "sweep": Sweep.model_validate(axes),
            "workload": {scheme: config.workload[scheme]},
            "method": {name: table for name, table in config.method.items() if name in methods},
        }
    )
    values = chosen.model_dump(mode="json")
    return toml.write({name: values[name] for name in ("run", "model", "sweep", "workload", "method")}) + "\n"


def write(text: str, path: Path, sentence: str, command: Sequence[str]) -> None:
    """Leaves a configuration; raises UsageError where it can't be written."""
    head = f"# {sentence}\n# Made by {shlex.join(command)}\n\n"
    try:
        files.replace(path, (head + text).encode())
    except store.UnwritableResults as error:
        raise UsageError(f"--write {path}: cannot write ({error.why.strerror}); choose another file") from error


def render(out: Path, forecast: Forecast) -> Path:
    """The page next to plan.json; raises UnwritableResults."""
    from reports.plans.page import render as page

    return page(out, forecast)


def print_forecast(forecast: Forecast, console: Console) -> None:
    """The sentence, every method at the user's batch size, the best by batch size, and what it all rests on."""
    say(console, forecast.recommendation)
    own = int(forecast.case["batch_size"] or 0)
    console.print(_methods(forecast, own, console.width))
    console.print(_sizes(forecast, console.width))
    for line in _basis(forecast):
        say(console, line)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left_out: Sequence[str]) -> Table:
    shown = [place for place, name in enumerate(columns) if name not in left_out]
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1), collapse_padding=True)
    for place in shown:
        table.add_column(columns[place], justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[place] for place in shown))
    return table


def _methods(forecast: Forecast, own: int, width: int) -> Table:
    most = {(each.label, each.engine): each.batch_size for each in forecast.largest}
    rows = [
        (
            line.label,
            line.engine,
            f"{line.speed_up.value:.2f}x",
            f"{line.speed_up.low:.2f} to {line.speed_up.high:.2f}",
            f"{1e3 * line.step_s.value:.3g}",
            f"{line.users_per_s.value:.3g}",
            "" if line.epoch_s is None else duration(line.epoch_s.value),
            f"{line.peak_bytes.value / GIB:.2f}" + ("" if line.fits else " too much"),
            str(most.get((line.label, line.engine)) or "none"),
        )
        for line in forecast.lines
        if line.batch_size == own
    ]
    columns = ("method", "engine", "speed-up", "90 % interval", "ms/step", "users/s", "epoch", "GiB", "largest batch")
    return _table(f"{own} users", columns, rows, () if width >= WIDE else ("users/s", "epoch"))


def _sizes(forecast: Forecast, width: int) -> Table:
    rows = []
    for count in (each for each in forecast.counts if each.steps == 1):
        lines = [line for line in forecast.lines if line.batch_size == count.batch_size and line.exactness == "exact"]
        best = max((line for line in lines if line.fits), key=lambda line: line.users_per_s.value, default=None)
        best_cells = ("none fits", "", "", "")
        if best is not None:
            best_cells = (
                f"{best.label} ({best.engine})",
                f"{best.users_per_s.value:.3g}",
                f"{best.speed_up.value:.2f}x",
                f"{best.peak_bytes.value / GIB:.2f}",
            )
        unique = f"{count.unique_items.mean:.0f} ± {count.unique_items.error:.2g}"
        ratio = f"{count.item_repetition_ratio:.2f}"
        rows.append((f"{count.batch_size}", f"{count.item_slots.mean:.0f}", unique, ratio, *best_cells))
    columns = ("users", "slots", "unique items", "ratio", "best exact", "users/s", "speed-up", "GiB")
    return _table("by batch size", columns, rows, () if width >= WIDE else ("slots",))


def _basis(forecast: Forecast) -> list[str]:
    read = f"{forecast.users_read:,} users read" + (", a whole epoch" if forecast.whole_epoch else ", sampled")
    found = [f"Counts: {read}. Memory limit: {forecast.memory_limit_bytes / GIB:.3g} GiB."]
    for used in forecast.coefficients:
        notes = f"; {'; '.join(used.notes)}" if used.notes else ""
        found.append(
            f"Coefficients of {used.engine} ({used.tier}): {used.machine}, error {used.log_sd:.0%} of a step{notes} "
            f"({used.origin})"
        )
    return [*found, *(f"left out: {each}" for each in forecast.left_out)]


def calibrate(
    asked: Plan, case: str | None, seconds: float, out: Path | None, console: Console, progress: Console
) -> None:
    """Measures coefficients for the case's engines, keeps them, and says how well they fit.

    Raises UsageError where the case cannot be built or the time is too short, BenchError where too little was measured.
    """
    from bench.planning import calibration, coefficients

    if not 10 <= seconds <= 3600:
        raise UsageError(f"--seconds {seconds:g}: give 10 to 3600.")
    chosen, engines = _case(asked, case)
    session.check_encoders(asked.config)
    session.fetch_assets(asked.config, progress)
    for engine in engines:
        say(progress, f"Measuring {chosen.encoder} on {engine}")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # peaks are a process's own
            share = seconds / len(engines)
            made, notes = pool.submit(calibration.calibrate, asked.config, chosen, engine, share).result()
        for note in notes:
            say(progress, note)
        path = coefficients.keep(made, out)
        _print_calibration(made, console)
        say(console, f"Kept in {path}, measured in {made.seconds:.0f} s.")


def _print_calibration(made: Any, console: Console) -> None:
    table = Table(
        "step", "measured ms", "fitted ms", "off", title=made.key.engine, title_justify="left", box=box.SIMPLE
    )
    for sample in made.samples:
        off = sample.fitted_s / sample.measured_s - 1
        table.add_row(sample.case, f"{1e3 * sample.measured_s:.3g}", f"{1e3 * sample.fitted_s:.3g}", f"{off:+.0%}")
    console.print(table)
    factor = made.memory
    say(
        console,
        f"A step that was left out of the fit is off by {made.log_sd:.0%} (standard deviation); memory is "
        f"{factor.middle:.2f} times what shapes say ({factor.low:.2f} to {factor.high:.2f}, {factor.samples} steps).",
    )
