"""References: an earlier result with its own uncertainty, committed per device below `bench/references/`.

One is made from one run, as that run came out. Nothing here takes the best of several: a reference that is lucky calls
every later run a loss.
"""

import re
from pathlib import Path
from typing import Any, Literal

from bench.errors import NothingMeasured, UsageError
from bench.results import differences, files, store
from bench.results.analysis import stats
from bench.results.analysis.lines import LineResult, lines
from bench.results.files import Strict
from bench.results.schema import POWER_CAP, Environment
from bench.results.store import LoadedRun
from bench.results.verdicts import SCHEMA_VERSION, CanaryVerdict

FOLDER = Path(__file__).parents[1] / "references"
"""`bench/references/`."""


class Reference(Strict):
    """What a later run is held against."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    measured_at: str
    command: tuple[str, ...]
    preset: str
    environment: Environment
    config: dict[str, Any]
    steady_clocks: bool
    canary: CanaryVerdict | None = None
    """Of the run; None where it measured none, and in references of before it was kept."""
    lines: tuple[LineResult, ...]


def make(run: LoadedRun) -> Reference:
    """The reference that a run is; raises NothingMeasured where it is none."""
    found = lines(run.records)
    if not any(line.speed_up for line in found):
        raise NothingMeasured(f"{run.run_dir} holds no speed-up, so it can be no reference.")
    return Reference(
        run_id=run.info.run_id,
        measured_at=run.info.started_at,
        command=run.info.command,
        preset=run.info.preset,
        environment=run.info.environment,
        config=run.info.config,
        steady_clocks=steady_clocks(run),
        canary=canary_of(run, run.info.config.get("gate", {}).get("canary_limit")),
        lines=found,
    )


def canary_of(run: LoadedRun, limit: object) -> CanaryVerdict | None:
    """The run's canaries as one, held to a limit ("auto": its device's); None where it measured none."""
    allowed = stats.canary_limit(run.info, limit)
    found = stats.trust(run.records, allowed)
    if found is None:
        return None
    low, high = found.canary.interval or (None, None)
    return CanaryVerdict(
        ratio=found.canary.value,
        low=low,
        high=high,
        limit=allowed,
        cases=found.cases,
        blocks=found.canary.blocks,
        trusted=found.trusted,
    )


def refuse_untrusted(reference: Reference, run_dir: Path) -> None:
    """Raises UsageError where e2e was not as fast as itself in the run that the reference is of."""
    canary = reference.canary
    if canary is not None and not canary.trusted:
        raise UsageError(
            f"{run_dir}: its canary leaves its limit, e2e against itself is {canary.in_words} where 1 ± "
            f"{100 * canary.limit:g} % is allowed, so this machine was too unsteady for a reference: measure again, or "
            "make one all the same with --allow-untrusted."
        )


def steady_clocks(run: LoadedRun) -> bool:
    """Whether the device says that nothing but a method's own power moved its clock, and that it had no other guest.

    Where the power cap decides the clock, the clock belongs to the method, and whether it repeats is in the intervals
    and the canary. A processor does not say.
    """
    readings = [record.telemetry for record in run.records if record.outcome == "ok"]
    clocks = [each.sm_clock_mhz for each in readings if each is not None]
    if (
        not readings
        or len(clocks) < len(readings)
        or None in clocks
        or any(each.foreign_processes for each in readings if each)
    ):
        return False
    free = [each.sm_clock_mhz for each in readings if each and POWER_CAP not in (each.throttle_reasons or ())]
    spreads = [each for each in free if each is not None]
    return not spreads or min(each.min for each in spreads) >= STEADY * max(each.max for each in spreads)


STEADY = 0.97
"""Lowest over highest SM clock that still counts as steady."""


def place(environment: Environment) -> Path:
    """Where the reference of a device is kept."""
    cores = f"-{environment.cpu_cores}-cores" if environment.device_kind == "cpu" else ""
    slug = re.sub(r"[^a-z0-9]+", "-", environment.device.lower()).strip("-") or "device"
    return FOLDER / f"{slug}{cores}.json"


def write(reference: Reference, path: Path) -> None:
    """Writes it whole or not at all; raises UsageError where it can't be written."""
    try:
        files.replace(path, (reference.model_dump_json(indent=1) + "\n").encode())
    except store.UnwritableResults as error:
        raise UsageError(
            f"{path}: cannot write the reference there ({error.why.strerror}); choose another --out."
        ) from error


def read(path: Path) -> Reference:
    """The reference in a file, or the one that a run directory is; raises UsageError where it is neither."""
    if path.is_dir():
        if not (path / store.INFO_FILE).is_file():
            raise UsageError(f"{path}: neither a reference's file nor a run directory.")
        return make(store.load(path))
    return files.read_whole(path, Reference, "a reference", "`gram-bench reference RUN_DIR` makes one", UsageError)


def refuse_mismatch(reference: Reference, environment: Environment) -> None:
    """Raises UsageError where the reference is of another device, driver, torch or power limit."""
    found = differences.decisive(reference.environment, environment)
    if found:
        raise UsageError(
            f"the reference {reference.run_id} was measured elsewhere than this run ({'; '.join(found)}): make one "
            "here with `gram-bench reference RUN_DIR`, or gate all the same with --allow-mismatch."
        )
