"""A run directory as a page: `report.html`, `figures/*.png`, `summary.md`, `summary.csv`.

The page holds everything it shows, asks the network for nothing and needs no script.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shlex
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.results import stats
from bench.results.store import LoadedRun, ResultsError, UnwritableResults, load
from bench.results.summary import Frames, frames
from bench.results.verdicts import read as read_verdicts
from reports import figures, gate, sections, story, tables, toml, words
from reports.figures import Drawn

_NOTES = {
    "real": "",
    "synthetic-log": "The encoder's weights are real, the interaction log is drawn at random: item popularity follows "
    "the workload's settings, and the repetition ratio is asked for (synthetic) or follows from them (shape).",
    "random-weights": "These encoders have the stated shape but random weights. Time and memory do not depend on the "
    "weights' values, so both are meaningful here; losses and encodings are not.",
}


@dataclass(frozen=True)
class Rendered:
    """What `render` wrote, and the store's warnings about the run."""

    page: Path
    markdown: Path
    csv: Path
    figures: tuple[Path, ...]
    warnings: tuple[str, ...]


def render(run_dir: Path) -> Rendered:
    """Renders the run into its own directory.

    Raises ResultsError: not a run directory, damaged, or not writable.
    """
    run = load(run_dir)
    derived = frames(run.records)
    drawn = tuple(figures.draw_all(derived, run.info))
    context = _context(run, derived, drawn)
    page, markdown, csv = (run_dir / name for name in ("report.html", "summary.md", "summary.csv"))
    pictures = tuple(run_dir / "figures" / f"{each.name}.png" for each in drawn)
    _clear(run_dir / "figures")
    for picture, each in zip(pictures, drawn, strict=True):
        _write(picture, each.png)
    _write(markdown, _markdown(run, context).encode())
    _write(csv, derived.summary.to_csv(index=False).encode())
    _write(page, _template().render(context).encode())
    return Rendered(page, markdown, csv, pictures, run.warnings)


def _clear(folder: Path) -> None:
    """Removes the pictures of an earlier rendering, which may no longer match the records."""
    with contextlib.suppress(OSError):
        for picture in folder.glob("*.png"):
            picture.unlink()


def _write(path: Path, content: bytes) -> None:
    """Replaces the file in one step, so that nobody opens half a page."""
    fresh = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(exist_ok=True)
        fresh.write_bytes(content)
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise UnwritableResults(path, error) from error


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = _picture
    return environment.get_template("report.html.j2")


def _picture(png: bytes) -> Markup:
    return Markup("data:image/png;base64,") + base64.b64encode(png).decode()


def _context(run: LoadedRun, derived: Frames, drawn: Iterable[Drawn]) -> dict[str, Any]:
    """Everything that the page and the Markdown print."""
    groups: dict[str, list[Drawn]] = {}
    for each in drawn:
        groups.setdefault(each.setting, []).append(each)
    kinds = [kind for kind in words.MEMORY_KINDS if (derived.summary["memory_kind"] == kind).any()]
    engines = tables.engines(derived)
    trust = stats.trust(run.records, stats.canary_limit(run.info))
    return {
        "info": run.info,
        **_gate(run),
        "story": story.tell(derived, run.info),
        "origin_names": words.ORIGINS,
        "results": [
            {"name": words.ORIGINS[origin], "note": _NOTES[origin], "tables": tables.headlines(part)}
            for origin, part in tables.origins(derived).items()
        ],
        "figure_groups": groups,
        "undrawn": figures.undrawn(derived),
        "engines": engines if engines.rows else None,
        "precision": tables.precision(derived),
        "trust": story.environment(trust),
        "untrusted": trust is not None and not trust.trusted,
        "sections": sections.make_all(run, derived),
        "not_measured": tables.not_measured(derived),
        "every_result": tables.every_result(derived),
        "environment": tables.environment(run.info),
        "inputs": tables.inputs(run.records),
        "started": words.moment(run.info.started_at),
        "command": shlex.join(run.info.command),
        "config": toml.write(run.info.config),
        "memory": words.listing(words.MEMORY_KINDS[kind] for kind in kinds),
        "device_kind": run.info.environment.device_kind,
        "recorded": len(run.records),
        "unfinished": len(run.records) < run.info.planned_records,
        "several_blocks": bool(derived.summary["speed_up_half_width"].notna().any()),
        "several_samples": int(derived.summary["samples"].max()) if len(derived.summary) else 0,
        "count": words.count,
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
    parts = [f"# {tables.escape(told.headline)}", tables.escape(" ".join(told.sentences))]
    place = run.info.environment
    parts.append(
        tables.escape(f"Run {run.info.run_id}, preset {run.info.preset}, {place.device}, {context['started']}.")
    )
    for group in context["results"]:
        for table in group["tables"]:
            parts += ["## " + tables.escape(f"{group['name']}: {table.title}"), group["note"]]
            parts += [tables.markdown(table), _left_out(table)]
    if context["engines"]:
        parts += ["## What the engine gains, and what the method gains", tables.markdown(context["engines"])]
    if context["precision"].rows or context["trust"]:
        parts += ["## Precision", tables.escape(context["trust"])]
    if context["precision"].rows:
        parts += [tables.markdown(context["precision"]), _left_out(context["precision"])]
    for section in context["sections"]:
        parts += [f"## {tables.escape(section.title)}", *(tables.escape(note) for note in section.notes)]
        for table in section.tables:
            parts += [f"**{tables.escape(table.title)}**"] if table.title else []
            parts += [tables.markdown(table), _left_out(table)]
    if context["not_measured"].rows:
        parts += ["## Not measured", tables.markdown(context["not_measured"]), _left_out(context["not_measured"])]
    parts += ["## Figures"] if context["figure_groups"] else []
    for setting, drawn in context["figure_groups"].items():
        parts += [
            f"![{tables.escape(f'{each.title}: {setting}' if setting else each.title)}](figures/{each.name}.png)"
            for each in drawn
        ]
    parts += [
        "## Environment",
        "\n".join(f"- {name}: {tables.escape(value)}" for name, value in context["environment"]),
    ]
    if context["inputs"]:
        parts += ["## Inputs", "\n".join(f"- {tables.escape(f'{name}: {facts}')}" for name, facts in context["inputs"])]
    fence = "`" * 3
    parts += ["## Reproduce", f"{fence}sh\n{context['command'].replace(fence, '')}\n{fence}"]
    parts += [tables.escape(f"Warning: {warning}") for warning in run.warnings]
    return "\n\n".join(part for part in parts if part) + "\n"


def _left_out(table: tables.Table) -> str:
    more = f"{words.count(table.left_out, 'more line')} in summary.csv." if table.left_out else ""
    return " ".join(part for part in (table.caption, more) if part)
