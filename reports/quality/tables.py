"""The tables of a training run: a line per method as the paper's Tables 4 and 5 have it, then every seed."""

from collections.abc import Callable
from typing import Any

from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.training_summary import TrainingFrames
from reports import numbers, words
from reports.table import (
    MIDDLE,
    WIDE,
    Cell,
    Column,
    Row,
    Table,
    gradient,
    group,
    grouped,
    label,
    outcome,
    plain,
    ratio_cell,
    text,
)  # fmt: skip

METRICS = {"auc": "AUC", "cold_auc": "Cold-start AUC", "mrr": "MRR", "ndcg_5": "nDCG@5", "ndcg_10": "nDCG@10"}
"""How the known ones are written; another is written as its file is named."""
STOPPED = {
    "patience": "patience",
    "max_epochs": "train.max_epochs",
    "max_steps": "train.max_steps",
    "max_train_s": "train.max_train_s",
}


def metric(name: str) -> str:
    """A metric's name for readers."""
    return METRICS.get(name, name)


def points(value: float | None) -> str:
    """A quality in hundredths, as the field prints it: 71.2."""
    return f"{100 * value:.1f}" if value is not None and numbers.exists(value) else numbers.MISSING


def difference(value: float | None) -> str:
    """A difference of qualities in hundredths, with its sign."""
    if value is None or not numbers.exists(value):
        return numbers.MISSING
    return f"{100 * value:+.1f}" if abs(100 * value) >= 0.05 else "0.0"


def between(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """An interval of qualities in hundredths; empty where one seed leaves it unknown."""
    written = difference if signed else points
    return f"{written(low)} to {written(high)}" if numbers.exists(low) and numbers.exists(high) else ""


def _quality(name: str, unit: str = "", kind: str = "", **look: Any) -> Column:
    """A metric's column."""

    def cell(row: Row) -> Cell:
        value = f"test_{name}"
        return Cell(points(row[value]), kind, between(row[f"{value}_low"], row[f"{value}_high"]))

    return Column(metric(name), cell, unit, **look)


def _difference(first: str) -> Column:
    def cell(row: Row) -> Cell:
        name = f"difference_{first}"
        spread = between(row[f"{name}_low"], row[f"{name}_high"], signed=True)
        return Cell(difference(row[name]), "muted" if row["method"] == REFERENCE else "", spread)

    return Column(f"{metric(first)} against e2e's", cell, "points, seed by seed", short="vs e2e", noted=True)


def _speed_up(name: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        return Cell(numbers.times(row[name]), "muted") if row["method"] == REFERENCE else ratio_cell(row, name)

    return cell


def _reached(row: Row) -> Cell:
    if row["reached_seeds"] == row["goal_seeds"]:
        return Cell(time(row["quality_s"]))
    return Cell("not reached", "muted", f"by {row['goal_seeds'] - row['reached_seeds']:g} of {row['goal_seeds']:g}")


def _memory(row: Row) -> Cell:
    known = numbers.exists(row["memory_ratio"]) and row["method"] != REFERENCE
    return Cell(
        numbers.gibibytes(row["memory_bytes"]), note=f"{numbers.percent(row['memory_ratio'])} of e2e's" if known else ""
    )


def _ended(row: Row) -> Cell:
    if row["outcome"] is None:
        return Cell("goes on", "muted")
    if row["outcome"] != "ok":
        return outcome(row)
    seeds = numbers.count(int(row["ok_seeds"]), "seed")
    reasons = words.listing(STOPPED[each] for each in row["stopped"].split(", "))
    failed = row["ok_seeds"] < row["seeds"]
    note = f"{row['ok_seeds']:g} of {row['seeds']:g} seeds" if failed else seeds
    return Cell(reasons, "bad" if failed else "muted", note)


AGAINST_E2E = (
    Column("Speed-up to best", _speed_up("speed_up_best"), "against e2e", short="speed-up"),
    Column("Time to e2e's quality", _reached, short="to e2e's", from_width=MIDDLE),
    Column("Speed-up to it", _speed_up("speed_up_quality"), "against e2e", short="speed-up"),
)


def results(frames: TrainingFrames) -> tuple[Table, ...]:
    """Every line side by side, a table per case."""
    cases = words.by_case(frames.summary.to_dict("records"))
    return tuple(_case(words.case(rows[0]), rows, frames.metrics) for rows in cases.values())


def _case(title: str, rows: list[Row], metrics: tuple[str, ...]) -> Table:
    judged = [name for name in metrics if any(numbers.exists(row[f"test_{name}"]) for row in rows)]
    first, *others = judged or metrics[:1]
    compared = any(row["method"] == REFERENCE for row in rows)
    others.sort(key=lambda name: not name.startswith("cold_"))
    columns = (
        text("Method", label),
        _quality(first, "test split", "strong", noted=True),
        *([_difference(first)] if compared else []),
        *(_quality(name, from_width=WIDE) for name in others[:1]),
        Column("Time to best", seconds("best_s"), "to convergence", short="to best"),
        *(AGAINST_E2E if compared else ()),
        Column("Peak memory", _memory, from_width=MIDDLE),
        *(_quality(name, from_width=WIDE) for name in others[1:]),
        text("Gradient", gradient, from_width=MIDDLE),
        text("Ended", _ended, "by"),
    )
    return Table(columns, (group(columns, "", rows),), title=title)


def time(seconds: float | None) -> str:
    """A duration, or that there is none."""
    return numbers.duration(seconds) if seconds is not None and numbers.exists(seconds) else numbers.MISSING


def seconds(name: str) -> Callable[[Row], str]:
    """The same of a row."""
    return lambda row: time(row[name])


def _how(row: Row) -> Cell:
    ended = STOPPED.get(row["stopped"]) or words.OUTCOMES.get(row["outcome"], "goes on")
    return Cell(ended, "muted" if row["outcome"] == "ok" else "bad")


def every_seed(frames: TrainingFrames, limit: int = 500) -> Table:
    """One row per training."""

    def test(place: int, name: str) -> Column:
        return Column(metric(name), lambda row: points(row[f"test_{name}"]), "" if place else "test split")

    columns = (
        text("Method", label),
        Column("Seed", plain("seed")),
        *(test(place, name) for place, name in enumerate(frames.metrics)),
        Column(metric(frames.metrics[0]), lambda row: points(row["validation"]), "best of validation"),
        Column("Time to best", seconds("best_s")),
        Column("Steps to best", lambda row: numbers.number(row["best_step"], 1)),
        Column("Epochs to best", lambda row: numbers.number(row["best_epoch"])),
        Column("Time to e2e's quality", seconds("quality_s")),
        Column("Trained for", seconds("train_s")),
        Column("Steps", lambda row: numbers.number(row["step"], 1)),
        text("Ended", _how),
    )
    return grouped(columns, frames.seeds.to_dict("records"), limit, words.case)


UNFINISHED = (
    text("Case", words.case),
    text("Method", label),
    Column("Seed", plain("seed")),
    text("Outcome", outcome),
    text("Reason", lambda row: row["reason"] or "no reason was recorded"),
)


def unfinished(frames: TrainingFrames, limit: int = 200) -> Table:
    """Every training that failed, with its reason."""
    failed = frames.seeds[frames.seeds["outcome"].notna() & (frames.seeds["outcome"] != "ok")]
    return grouped(UNFINISHED, failed.to_dict("records"), limit)
