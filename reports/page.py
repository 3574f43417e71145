"""A run directory as a page: `report.html`, `figures/*.png`, `summary.md`, `summary.csv`.

The page holds everything it shows, asks the network for nothing and needs no script.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.results import stats
from bench.results.store import LoadedRun, ResultsError, load, read_info
from bench.results.summary import Frames, frames
from bench.results.verdicts import read as read_verdicts
from reports import figures, gate, inputs, rendering, sections, story, tables, words
from reports.figures import Drawn
from reports.rendering import Rendered
from reports.training import page as training_page

_NOTES = {
    "real": "",
    "synthetic-log": "The encoder's weights are real, the interaction log is drawn at random: item popularity follows "
    "the workload's settings, and the repetition ratio is asked for (synthetic) or follows from them (shape).",
    "random-weights": "These encoders have the stated shape but random weights. Time and memory do not depend on the "
    "weights' values, so both are meaningful here; losses and encodings are not.",
}


def render(run_dir: Path) -> Rendered:
    """Renders the run into its own directory.

    Raises ResultsError: not a run directory, damaged, or not writable.
    """
    if read_info(run_dir).kind == "train":
        return training_page.render(run_dir)
    run = load(run_dir)
    derived = frames(run.records)
    drawn = tuple(figures.draw_all(derived, run.info))
    context = _context(run, derived, drawn)
    page = rendering.template("report.html.j2").render(context)
    csv = derived.summary.to_csv(index=False)
    return rendering.write(run_dir, page, _markdown(run, context), csv, drawn, run.warnings)


def _context(run: LoadedRun, derived: Frames, drawn: Iterable[Drawn]) -> dict[str, Any]:
    """Everything that the page and the Markdown print."""
    kinds = [kind for kind in words.MEMORY_KINDS if (derived.summary["memory_kind"] == kind).any()]
    engines = tables.engines(derived)
    trust = stats.trust(run.records, stats.canary_limit(run.info))
    return {
        **rendering.reproduction(run.info, inputs.inputs(run.records)),
        **_gate(run),
        "story": inputs.with_left_out(story.tell(derived, run.info), run.records),
        "origin_names": words.ORIGINS,
        "results": [
            {"name": words.ORIGINS[origin], "note": _NOTES[origin], "tables": tables.headlines(part)}
            for origin, part in tables.origins(derived).items()
        ],
        "figure_groups": rendering.grouped(drawn),
        "undrawn": figures.undrawn(derived),
        "engines": engines if engines.rows else None,
        "precision": tables.precision(derived),
        "trust": story.environment(trust),
        "untrusted": trust is not None and not trust.trusted,
        "sections": sections.make_all(run, derived),
        "not_measured": tables.not_measured(derived),
        "every_result": tables.every_result(derived),
        "memory": words.listing(words.MEMORY_KINDS[kind] for kind in kinds),
        "device_kind": run.info.environment.device_kind,
        "recorded": len(run.records),
        "unfinished": len(run.records) < run.info.planned_records,
        "tells_utilisation": bool(derived.summary["mfu"].notna().any()),
        "several_blocks": bool(derived.summary["speed_up_half_width"].notna().any()),
        "several_samples": int(derived.summary["samples"].max()) if len(derived.summary) else 0,
    }


def _gate(run: LoadedRun) -> dict[str, Any]:
    """The verdicts of `gram-bench gate` where the run was gated; damaged ones are a warning."""
    try:
        verdicts = read_verdicts(run.run_dir)
    except ResultsError as error:
        return {"gate": None, "warnings": (*run.warnings, str(error))}
    if verdicts is None:
        return {"gate": None, "warnings": run.warnings}
    told = gate.conditions(verdicts)
    if verdicts.records != len(run.records):
        told.append("The run holds other records since; gate it again.")
    return {
        "gate": verdicts,
        "gate_table": gate.table(verdicts),
        "gate_conditions": told,
        "warnings": run.warnings,
    }


def _markdown(run: LoadedRun, context: dict[str, Any]) -> str:
    """The page's words and tables for places that show Markdown; figures are linked."""
    told = context["story"]
    parts = rendering.markdown_head(told.headline, told.sentences, run.info)
    for group in context["results"]:
        for table in group["tables"]:
            parts += ["## " + tables.escape(f"{group['name']}: {table.title}"), group["note"]]
            parts += [tables.markdown(table), rendering.left_out(table)]
    if context["engines"]:
        parts += ["## What the engine gains, and what the method gains", tables.markdown(context["engines"])]
    if context["precision"].rows or context["trust"]:
        parts += ["## Precision", tables.escape(context["trust"])]
    if context["precision"].rows:
        parts += [tables.markdown(context["precision"]), rendering.left_out(context["precision"])]
    for section in context["sections"]:
        parts += rendering.markdown_section(section)
    if context["not_measured"].rows:
        parts += [
            "## Not measured",
            tables.markdown(context["not_measured"]),
            rendering.left_out(context["not_measured"]),
        ]
    return rendering.joined([*parts, *rendering.markdown_end(context, context["figure_groups"], run.warnings)])
