"""Verdicts on a run: PASS, FAIL or INCONCLUSIVE for every gated line, with a coded reason, and one for the run. Pure.

What is held to what
- speed-ups, in ln: against floors, and against a reference that has an error of its own (Welch). FAIL where more than
  the tolerance is surely lost, PASS where surely not, else INCONCLUSIVE. All losses of a gate are one family (Holm).
- outcomes: a line that is gone, renamed, or worse off than in the reference fails.
- memory, without a test: allocated peaks repeat to the byte, so 1 % + 8 MiB more than the reference's fails. A
  processor has no such count, only the process's resident peak, which holds interpreter and libraries and moves with
  the C library's arenas: there 10 % + 64 MiB more fails, which sees a leak and not a tensor.
- the canary: where e2e is not as fast as itself, nothing that was measured is believed. A line that is not there, or
  raised an error, needs no clock to fail.
"""

from collections.abc import Iterable, Sequence

from bench.configuration.gate_settings import Floor, GateSettings
from bench.gating.checks import (
    Comparison,
    against_floor,
    against_reference,
    decided,
    memory,
    outcome,
    percent,
    times,
    with_input_changes,
)
from bench.gating.references import Reference, canary_of, steady_clocks
from bench.results import differences
from bench.results.analysis import stats
from bench.results.analysis.lines import LineResult, lines, under_names_of
from bench.results.identity import Line
from bench.results.store import LoadedRun
from bench.results.verdicts import CanaryVerdict, Check, Code, GateReport, HeldAgainst, LineVerdict, Verdict

REGRESSION = 3
INCONCLUSIVE = 4
NOTHING_MEASURED = 5

STEADY_TOLERANCE = 0.03
SHARED_TOLERANCE = 0.05
NOTED_LOAD = 0.25
"""Tasks per core between the least and the most of a run's blocks that are worth a note."""


_EXIT_CODES: dict[Code, int] = {
    "passed": 0,
    "regression": REGRESSION,
    "inconclusive": 0,
    "untrusted": 0,
    "nothing-measured": NOTHING_MEASURED,
}


def judge(run: LoadedRun, settings: GateSettings, reference: Reference | None = None) -> GateReport:
    """Everything that `settings` and the reference say of the run, on its own records alone."""
    found = {line.line: line for line in lines(run.records)}
    kind = run.info.environment.device_kind
    tolerance, tolerance_reason = _tolerance(run, settings, reference)
    floors = [floor for floor in settings.floor if floor.device in (None, kind)]
    then = {line.line: line for line in under_names_of(reference.lines, tuple(found.values()))} if reference else {}

    checks: dict[Line, list[Check]] = {}
    comparisons: list[Comparison] = []
    for key, line in found.items():
        own = [floor for floor in floors if floor.fits(line)]
        if key in then:
            checks[key] = [outcome(line, then[key]), *memory(line, then[key])]
            comparisons += against_reference(line, then[key], tolerance, checks[key])
        elif own:
            checks[key] = [outcome(line, None)]
        for floor in own:
            comparisons += against_floor(line, floor, found, checks[key])
    for comparison, check in zip(comparisons, decided(comparisons), strict=True):
        checks[comparison.line].append(check)
    for key in checks.keys() & then.keys():
        checks[key] = with_input_changes(checks[key], found[key], then[key])

    canary = canary_of(run, settings.canary_limit)
    judged = [_line(found[key], own) for key, own in checks.items()]
    new = [line for key, line in found.items() if key not in then]
    judged += [_missing(line, new) for key, line in then.items() if key not in found]
    judged += [_unmet(floor) for floor in floors if not any(floor.fits(line) for line in found.values())]
    if canary is not None and not canary.trusted:
        judged = [_distrusted(line) for line in judged]
    notes = _notes(run, reference, [line for key, line in found.items() if key not in checks], canary)
    notes += _input_notes([(then[key], line) for key, line in found.items() if key in then])
    verdict, code, reason = _overall(judged, canary, run)
    return GateReport(
        run_id=run.info.run_id,
        device=run.info.environment.device,
        verdict=verdict,
        code=code,
        reason=reason,
        exit_code=_EXIT_CODES[code],
        reference=_held_against(reference),
        tolerance=tolerance,
        tolerance_reason=tolerance_reason,
        canary=canary,
        notes=notes,
        records=len(run.records),
        lines=tuple(judged),
    )


def strictly(report: GateReport) -> GateReport:
    """The same verdicts under --strict: what is inconclusive ends with an exit code of its own."""
    inconclusive = report.verdict == "INCONCLUSIVE"
    return report.model_copy(update={"strict": True, "exit_code": INCONCLUSIVE if inconclusive else report.exit_code})


def _tolerance(run: LoadedRun, settings: GateSettings, reference: Reference | None) -> tuple[float, str]:
    if settings.tolerance != "auto":
        return settings.tolerance, "set by gate.tolerance"
    if steady_clocks(run) and (reference is None or reference.steady_clocks):
        return STEADY_TOLERANCE, "nothing but power moved the clocks, and the device was ours alone"
    return SHARED_TOLERANCE, "a shared machine, or one that does not say what moved its clocks"


def _line(line: LineResult, checks: Iterable[Check]) -> LineVerdict:
    interval = line.speed_up.interval if line.speed_up else None
    return LineVerdict(
        case_title=line.case_title,
        label=line.label,
        case=line.case,
        speed_up=line.speed_up.value if line.speed_up else None,
        speed_up_low=interval[0] if interval else None,
        speed_up_high=interval[1] if interval else None,
        blocks=line.blocks,
        notes=tuple(note for note in (line.speed_up.notes if line.speed_up else ()) if "one block" not in note),
        checks=tuple(checks),
    )


def _missing(gone: LineResult, new: Sequence[LineResult]) -> LineVerdict:
    """A line of the reference that the run does not have, with the new one that may be it under another name."""
    renamed = [(line, names) for line in new if len(names := _differing(gone, line)) == 1]
    code, reason = "missing", "the reference has it and this run does not"
    if renamed:
        line, (name,) = renamed[0]
        code = "renamed"
        reason += f", which has {name} = {line.fact(name)} instead of {gone.fact(name)}"
        reason += "; if that is meant, make a new reference"
    return LineVerdict(
        case_title=gone.case_title,
        label=gone.label,
        case=gone.case,
        checks=(Check(name="outcome", verdict="FAIL", code=code, reason=reason),),
    )


def _differing(gone: LineResult, line: LineResult) -> tuple[str, ...]:
    """Axes and columns in which two lines differ."""
    columns = ("method", "engine", "accumulation_steps", "dropout", "padding", "optimizer")
    names = dict.fromkeys((*gone.case, *line.case, *columns))
    return tuple(name for name in names if gone.fact(name) != line.fact(name))


def _unmet(floor: Floor) -> LineVerdict:
    """A floor that no line of the run is about: what it guards may have been renamed or left out."""
    where = ", ".join(f"{name} = {value}" for name, value in floor.conditions().items() if name != "method")
    reason = f"the run has no such line, and gate.floor promises {times(floor.at_least)} for it"
    return LineVerdict(
        case_title=f"any case with {where}" if where else "any case",
        label=floor.method,
        checks=(Check(name="floor", verdict="FAIL", code="missing", reason=reason, then=floor.at_least),),
    )


_NEEDS_NO_CLOCK = ("missing", "renamed", "error", "newly-error")


def _distrusted(line: LineVerdict) -> LineVerdict:
    """The line where nothing that was measured is believed."""
    why = "not believed, since the canary is out of bounds"
    checks = tuple(
        check
        if check.code in _NEEDS_NO_CLOCK
        else check.model_copy(
            update={"verdict": "INCONCLUSIVE", "code": "canary", "reason": f"{why}; {check.reason}"},
        )
        for check in line.checks
    )
    return line.model_copy(update={"checks": checks})


def _notes(
    run: LoadedRun, reference: Reference | None, unjudged: Sequence[LineResult], canary: CanaryVerdict | None
) -> tuple[str, ...]:
    """What a reader of the verdicts should know besides them."""
    notes = list(run.warnings)
    planned = run.info.planned_records
    if len(run.records) < planned:
        notes.append(
            f"the run is unfinished, {len(run.records)} of {planned} records: `gram-bench resume` adds the rest"
        )
    if canary is None:
        notes.append("no canary was measured, so whether e2e is as fast as itself here is not known")
    loads = [record.telemetry.load for record in run.records if record.telemetry is not None]
    known = [load for load in loads if load is not None]
    if known and max(known) - min(known) > NOTED_LOAD:
        notes.append(f"others' tasks per processor core moved between {min(known):.1f} and {max(known):.1f} meanwhile")
    dropped = sum(len(record.dropped_rounds) for record in run.records)
    if dropped:
        notes.append(f"{dropped} rounds were dropped for what the device did meanwhile")
    methods = [line.title for line in unjudged if line.method != stats.REFERENCE]
    if methods:
        listed = "; ".join(methods[:3]) + ("; ..." if len(methods) > 3 else "")
        notes.append(f"not judged, with neither floor nor reference, {len(methods)}: {listed}")
    if reference is not None:
        then, now = reference.environment, run.info.environment
        for what, found in (
            ("the reference was measured elsewhere", differences.decisive(then, now)),
            ("reference and run also differ in", differences.further(then, now)),
            ("settings differ, reference and run", differences.settings(reference.config, run.info.config)),
        ):
            notes += [f"{what}: {'; '.join(found)}"] if found else []
        notes.append(_canary_of_reference(reference))
    return tuple(notes)


def _canary_of_reference(reference: Reference) -> str:
    canary = reference.canary
    if canary is None:
        return "the reference keeps no canary, so whether e2e was as fast as itself there is not known"
    sentence = f"the reference's canary: e2e against itself was {canary.in_words}"
    limit = percent(canary.limit, sign=False)
    return (
        sentence
        if canary.trusted
        else f"{sentence}, which leaves {limit} around 1: that machine was too unsteady to trust"
    )


def _input_notes(pairs: Sequence[tuple[LineResult, LineResult]]) -> tuple[str, ...]:
    """Logs and encoders that are another one than the reference's, and those of which nobody knows."""
    different, unknown = differences.of_lines(pairs)
    notes = [f"not measured on the same as the reference: {each}" for each in different]
    if unknown:
        notes.append(
            f"whether these are the reference's is not known, since one of the two keeps no hash: {'; '.join(unknown)}"
        )
    return tuple(notes)


def _overall(judged: Sequence[LineVerdict], canary: CanaryVerdict | None, run: LoadedRun) -> tuple[Verdict, Code, str]:
    """The whole gate's verdict, its code, and a sentence."""
    if not any(record.outcome == "ok" for record in run.records):
        first = next((record.reason for record in run.records if record.reason), "the run was never begun")
        return "FAIL", "nothing-measured", f"nothing was measured; the first reason: {first}"
    failed = [line for line in judged if line.verdict == "FAIL"]
    undecided = [line for line in judged if line.verdict == "INCONCLUSIVE"]
    if failed:
        amount = f"{len(failed)} of {len(judged)} lines failed" if len(judged) > 1 else "the line failed"
        return "FAIL", "regression", f"{amount}; {_first(failed)}"
    if canary is not None and not canary.trusted:
        limit = percent(canary.limit, sign=False)
        reason = f"e2e against itself came out at {canary.in_words}, which leaves {limit} around 1"
        return "INCONCLUSIVE", "untrusted", f"{reason}: this machine was too unsteady for a verdict"
    if undecided:
        amount = (
            f"{len(undecided)} of {len(judged)} lines are undecided" if len(judged) > 1 else "the line is undecided"
        )
        return "INCONCLUSIVE", "inconclusive", f"{amount}; {_first(undecided)}"
    return "PASS", "passed", f"all {len(judged)} lines hold" if len(judged) > 1 else "the line holds"


def _first(lines: Sequence[LineVerdict]) -> str:
    return f"{lines[0].title}: {lines[0].deciding.reason}"


def _held_against(reference: Reference | None) -> HeldAgainst | None:
    if reference is None:
        return None
    return HeldAgainst(run_id=reference.run_id, measured_at=reference.measured_at, device=reference.environment.device)
