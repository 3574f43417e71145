"""A run directory as a page: `report.html`, `figures/*.png`, `summary.md`, `summary.csv`."""

from collections.abc import Iterator
from pathlib import Path

from bench.results import store, training
from bench.results.analysis import stats
from bench.results.analysis.summary import Frames, frames
from bench.results.store import LoadedRun, ResultsError
from bench.results.verdicts import read as read_verdicts
from reports import document, figures, headline, numbers, rendering, sections, tables, words
from reports.document import Document, Section
from reports.quality import page as training_page
from reports.rendering import Rendered
from reports.sections import _inputs
from reports.verdicts import gate

_NOTES = {
    "real": "",
    "synthetic-log": "The encoder's weights are real, the interaction log is drawn at random: item popularity follows "
    "the workload's settings, and the repetition ratio is asked for (synthetic) or follows from them (shape).",
    "random-weights": "These encoders have the stated shape but random weights. Memory does not depend on the "
    "weights' values, nor does time, but on a GPU at its power cap, where products of numbers near zero draw less "
    "power: both are meaningful here; losses and encodings are not.",
}
_PRECISION = (
    "Intervals are Student's t over blocks of fresh processes, not over samples, since samples of one process share "
    "its luck. The Hodges-Lehmann estimate is barely moved by single blocks; where it lies far from the speed-up, "
    "where one block is apart or where the ratio drifts, a note says so."
)
_ENGINES = (
    "Every speed-up on this page compares lines of one engine. Here the two shares are apart: engine's share × "  # noqa: RUF001
    "method's share = together, against e2e on the engine eager."
)
_MISSING = (
    "Cases that ended without a number, each with its reason. They are results too: what runs out of memory cannot be "
    "trained that way on this device."
)


def render(run_dir: Path) -> Rendered:
    """Renders the run into its own directory.

    Raises ResultsError: not a run directory, damaged, or not writable.
    """
    return rendering.write(run_dir, read(run_dir))


def read(run_dir: Path, *, draw: bool = True) -> Document:
    """The document of a run directory, of whatever kind; raises ResultsError. draw: with its figures."""
    if store.read_info(run_dir).kind == "train":
        return training_page.of_training(training.load(run_dir), draw=draw)
    return of_run(store.load(run_dir), draw=draw)


def of_run(run: LoadedRun, *, draw: bool = True) -> Document:
    """The document of a run's measurements; draw: with its figures, which take longest."""
    derived = frames(run.records)
    summary = derived.summary
    verdict, damaged = _gate(run)
    trust = stats.trust(run.records, stats.canary_limit(run.info))
    environment = headline.environment(trust)
    untrusted = trust is not None and not trust.trusted
    planned, recorded = run.info.planned_records, len(run.records)
    unfinished = (
        f"Unfinished: {recorded} of {numbers.count(planned, 'planned measurement')} recorded. `gram-bench resume` adds "
        "the rest."
    )
    warnings = (*run.warnings, *damaged)
    kinds = [kind for kind in words.MEMORY_KINDS if (summary["memory_kind"] == kind).any()]
    drawn = tuple(figures.draw_all(derived)) if draw else ()
    left = figures.undrawn(derived)
    undrawn = f"{numbers.count(left, 'further setting')} (encoder, precision, engine, …) not drawn; see summary.csv."
    precision = tables.precision(derived)
    first_reason = next((each.reason for each in run.records if each.reason), "the run was never begun, or interrupted")
    nothing = f"nothing was measured in {run.run_dir}; the first reason: {first_reason}"
    return document.of_run(
        run.info,
        _inputs.inputs(run.records),
        [
            *_results(derived),
            Section("precision", "Precision", (environment, _PRECISION), (precision,) if precision.rows else ()),
            Section(
                "engines",
                "What the engine gains, and what the method gains",
                (_ENGINES,),
                (tables.engines(derived),),
                "Engine and method",
            ),
            *sections.make_all(run, derived),
            document.figures(drawn, undrawn if left else ""),
            Section("missing", "Not measured", (_MISSING,), (tables.not_measured(derived),)),
            *verdict,
            Section("all", "Every result", (), (tables.every_result(derived),), page_only=True),
        ],
        story=_inputs.with_left_out(headline.tell(derived, run.info), run.records),
        files="Raw measurements: results.jsonl; all derived numbers: summary.csv; the figures: figures/.",
        numbers_at="the table “Every result”",
        notices=(
            *([unfinished] if recorded < planned else []),
            *([environment] if untrusted else []),
            *warnings,
        ),
        warnings=warnings,
        remarks=(*([(environment, "red" if untrusted else "")] if trust else []), *_failures(derived)),
        terms="terms_run.html.j2",
        values={
            "memory": words.listing(words.MEMORY_KINDS[kind] for kind in kinds),
            "tells_utilisation": bool(summary["mfu"].notna().any()),
            "several_blocks": bool(summary["speed_up_half_width"].notna().any()),
            "several_samples": int(summary["samples"].max()) if len(summary) else 0,
        },
        csv=summary.to_csv(index=False),
        nothing=None if any(each.outcome == "ok" for each in run.records) else nothing,
    )


def _results(derived: Frames) -> Iterator[Section]:
    """A section for each origin of the input, the most telling first."""
    for place, (origin, part) in enumerate(tables.origins(derived).items()):
        anchor, short = (f"results-{place + 1}", "") if place else ("results", "Results")
        made = tables.headlines(part)
        yield Section(anchor, words.ORIGINS[origin], (_NOTES[origin],), made, short, in_terminal=True)


def _failures(derived: Frames) -> list[tuple[str, str]]:
    outcomes = derived.records["outcome"].value_counts()
    parts = [f"{amount} {words.OUTCOMES[code]}" for code, amount in outcomes.items() if code != "ok"]
    return [(f"Not measured: {words.listing(parts)}.", "yellow")] if parts else []


def _gate(run: LoadedRun) -> tuple[list[Section], list[str]]:
    """The verdicts of `gram-bench gate` where the run was gated; damaged ones are a warning."""
    try:
        verdicts = read_verdicts(run.run_dir)
    except ResultsError as error:
        return [], [str(error)]
    if verdicts is None:
        return [], []
    notes = [f"{verdicts.reason[:1].upper()}{verdicts.reason[1:]}.", *gate.conditions(verdicts)]
    if verdicts.records != len(run.records):
        notes.append("The run holds other records since; gate it again.")
    judged = gate.table(verdicts)
    shown = (judged,) if judged.rows else ()
    return [Section("gate", f"Gate: {verdicts.verdict}", (" ".join(notes),), shown, "Gate", page_only=True)], []
