"""A training run as a page, with what every page of ours shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.results.training import LoadedTraining, load
from bench.results.training_summary import TrainingFrames, frames
from reports import handicaps, inputs, rendering, tiers, words
from reports.figures import Drawn
from reports.rendering import Rendered
from reports.sections import Section
from reports.training import beside_paper, figures, story
from reports.training import tables as training_tables
from reports.training.story import Story


def render(run_dir: Path) -> Rendered:
    """Renders the training run into its own directory; raises ResultsError as `reports.page.render` does."""
    run = load(run_dir)
    derived = derive(run)
    told = inputs.with_left_out(story.tell(derived, run.info), run.points)
    drawn = tuple(figures.draw_all(derived, run.info))
    sections = _sections(derived, run)
    context = _context(run, derived, told, sections, drawn)
    page = rendering.template("training.html.j2").render(context)
    csv = derived.summary.to_csv(index=False)
    return rendering.write(run_dir, page, _markdown(run, told, sections, context), csv, drawn, run.warnings)


def derive(run: LoadedTraining) -> TrainingFrames:
    """The run's numbers, by the metric and the tolerance that it was trained with."""
    settings = run.info.config.get("train", {})
    return frames(run.points, settings.get("metric", "auc"), settings.get("tolerance", 0.005))


def _sections(derived: TrainingFrames, run: LoadedTraining) -> tuple[Section, ...]:
    """Results, the paper's, every seed, what failed; those that have rows."""
    told = handicaps.table((point.method, point.detail) for point in run.points)
    found = (
        Section("results", "Results", (_intervals(derived),), (*training_tables.results(derived), *told)),
        beside_paper.section(derived),
        Section("tiers", "Which encoder ran how", (), tiers.table(run.points)),
        Section("seeds", "Every seed", (), (training_tables.every_seed(derived),)),
        Section("missing", "Not trained to the end", (), (training_tables.unfinished(derived),)),
    )
    return tuple(each for each in found if each is not None and any(table.rows for table in each.tables))


def _intervals(derived: TrainingFrames) -> str:
    if not len(derived.summary):
        return ""
    seeds = int(derived.summary["ok_seeds"].max())
    if seeds < 2:
        return "One seed: there is no telling how far a second one would lie from it."
    return (
        f"Means over {words.count(seeds, 'seed')}, with 95 % intervals by Student's t; differences and speed-ups are "
        "taken seed by seed first, since what a seed decides is the same for all lines."
    )


def _context(
    run: LoadedTraining, derived: TrainingFrames, told: Story, sections: tuple[Section, ...], drawn: tuple[Drawn, ...]
) -> dict[str, Any]:
    settings = run.info.config.get("train", {})
    ended = [point for point in run.points if point.outcome is not None]
    kinds = [kind for kind in words.MEMORY_KINDS if (derived.summary["memory_kind"] == kind).any()]
    return {
        **rendering.reproduction(run.info, inputs.inputs(ended)),
        "story": told,
        "sections": sections,
        "figure_groups": rendering.grouped(drawn),
        "undrawn": figures.undrawn(derived),
        "warnings": run.warnings,
        "recorded": len(ended),
        "unfinished": len(ended) < run.info.planned_records,
        "metric": training_tables.metric(settings.get("metric", "auc")),
        "untimed_steps": settings.get("untimed_steps", 0),
        "tolerance": f"{100 * settings.get('tolerance', 0.005):g}",
        "memory": words.listing(words.MEMORY_KINDS[kind] for kind in kinds),
    }


def _markdown(run: LoadedTraining, told: Story, sections: tuple[Section, ...], context: dict[str, Any]) -> str:
    parts = rendering.markdown_head(told.headline, told.sentences, run.info)
    for section in sections:
        parts += rendering.markdown_section(section)
    return rendering.joined([*parts, *rendering.markdown_end(context, context["figure_groups"], run.warnings)])
