"""A training run as a page, with what every page of ours shares."""

from bench.results.analysis.training_summary import TrainingFrames, frames
from bench.results.training import LoadedTraining
from reports import document, numbers, words
from reports.document import Document, Section
from reports.quality import headline, paper, plots
from reports.quality import tables as training_tables
from reports.sections import _inputs, _limitations, tiers


def of_training(run: LoadedTraining, *, draw: bool = True) -> Document:
    """The document of a training run; draw: with its figures."""
    derived = derive(run)
    settings = run.info.config.get("train", {})
    ended = [point for point in run.points if point.outcome is not None]
    kinds = [kind for kind in words.MEMORY_KINDS if (derived.summary["memory_kind"] == kind).any()]
    failed = [point for point in ended if point.outcome != "ok"]
    planned = run.info.planned_records
    unfinished = (
        f"Unfinished: {len(ended)} of {numbers.count(planned, 'planned training')} have ended. `gram-bench resume` "
        "goes on with the rest."
    )
    remark = f"{numbers.count(len(failed), 'training')} failed; summary.md has the reasons."
    drawn = tuple(plots.draw_all(derived)) if draw else ()
    left = plots.undrawn(derived)
    limited = _limitations.table((point.method, point.detail) for point in run.points)
    first_reason = next((each.reason for each in ended if each.reason), "the run was never begun, or interrupted")
    nothing = f"nothing was trained to its end in {run.run_dir}; the first reason: {first_reason}"
    return document.of_run(
        run.info,
        _inputs.inputs(ended),
        [
            Section("results", "Results", (_intervals(derived),), training_tables.results(derived), in_terminal=True),
            paper.section(derived),
            document.figures(
                drawn, f"{numbers.count(left, 'further case')} not drawn; see summary.csv." if left else ""
            ),
            Section("handicaps", "Peers not at their best", (), limited, "Peers"),
            Section("tiers", "Which encoder ran how", (), tiers.table(run.points)),
            Section("seeds", "Every seed", (), (training_tables.every_seed(derived),)),
            Section("missing", "Not trained to the end", (), (training_tables.unfinished(derived),)),
        ],
        story=_inputs.with_left_out(headline.tell(derived, run.info), run.points),
        files="Raw evaluations: training.jsonl; all derived numbers: summary.csv; the figures: figures/.",
        numbers_at="training.jsonl",
        notices=(*([unfinished] if len(ended) < planned else []), *run.warnings),
        warnings=run.warnings,
        remarks=((remark, "yellow"),) if failed else (),
        terms="terms_training.html.j2",
        values={
            "metric": training_tables.metric(settings.get("metric", "auc")),
            "untimed_steps": settings.get("untimed_steps", 0),
            "tolerance": f"{100 * settings.get('tolerance', 0.005):g}",
            "memory": words.listing(words.MEMORY_KINDS[kind] for kind in kinds),
        },
        csv=derived.summary.to_csv(index=False),
        nothing=None if any(each.outcome == "ok" for each in ended) else nothing,
    )


def derive(run: LoadedTraining) -> TrainingFrames:
    """The run's numbers, by the metric and the tolerance that it was trained with."""
    settings = run.info.config.get("train", {})
    return frames(run.points, settings.get("metric", "auc"), settings.get("tolerance", 0.005))


def _intervals(derived: TrainingFrames) -> str:
    if not len(derived.summary):
        return ""
    seeds = int(derived.summary["ok_seeds"].max())
    if seeds < 2:
        return "One seed: there is no telling how far a second one would lie from it."
    return (
        f"Means over {numbers.count(seeds, 'seed')}, with 95 % intervals by Student's t; differences and speed-ups are "
        "taken seed by seed first, since what a seed decides is the same for all lines."
    )
