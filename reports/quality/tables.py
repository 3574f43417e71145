"""The tables of a training run: a line per method as the paper's Tables 4 and 5 have it, then every seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.training_summary import TrainingFrames
from reports import numbers, words
from reports.tables import MIDDLE, WIDE, Cell, Column, Group, Table, grouped, ratio_cell

Row = Mapping[str, Any]

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


def results(frames: TrainingFrames) -> tuple[Table, ...]:
    """Every line side by side, a table per case."""
    cases = words.by_case(frames.summary.to_dict("records"))
    return tuple(_case(words.case(rows[0]), rows, frames.metrics) for rows in cases.values())


def _case(title: str, rows: list[Row], metrics: tuple[str, ...]) -> Table:
    judged = [name for name in metrics if any(numbers.exists(row[f"test_{name}"]) for row in rows)]
    first, *others = judged or metrics[:1]
    compared = any(row["method"] == REFERENCE for row in rows)
    points_apart = Column(f"{metric(first)} against e2e's", "points, seed by seed", short="vs e2e", noted=True)
    against_e2e = (
        Column("Speed-up to best", "against e2e", short="speed-up"),
        Column("Time to e2e's quality", short="to e2e's", from_width=MIDDLE),
        Column("Speed-up to it", "against e2e", short="speed-up"),
    )
    others.sort(key=lambda name: not name.startswith("cold_"))
    leading, behind = others[:1], others[1:]
    columns = [
        Column("Method", numeric=False),
        Column(metric(first), "test split", noted=True),
        *([points_apart] if compared else []),
        *(Column(metric(name), from_width=WIDE) for name in leading),
        Column("Time to best", "to convergence", short="to best"),
        *(against_e2e if compared else ()),
        Column("Peak memory", from_width=MIDDLE),
        *(Column(metric(name), from_width=WIDE) for name in behind),
        Column("Gradient", numeric=False, from_width=MIDDLE),
        Column("Ended", "by", numeric=False),
    ]
    made = tuple(_line(row, first, leading, behind, compared=compared) for row in rows)
    return Table(tuple(columns), (Group("", made),), title=title)


def _line(row: Row, first: str, leading: list[str], behind: list[str], *, compared: bool) -> tuple[Cell, ...]:
    is_reference = row["method"] == REFERENCE
    cells = [Cell(row["label"], "strong"), _quality(row, f"test_{first}", "strong")]
    if compared:
        spread = between(row[f"difference_{first}_low"], row[f"difference_{first}_high"], signed=True)
        cells.append(Cell(difference(row[f"difference_{first}"]), "muted" if is_reference else "", spread))
    cells += [_quality(row, f"test_{name}") for name in leading]
    cells.append(Cell(time(row["best_s"])))
    if compared:
        cells += [_speed_up(row, "speed_up_best"), _reached(row), _speed_up(row, "speed_up_quality")]
    return (
        *cells,
        _memory(row),
        *(_quality(row, f"test_{name}") for name in behind),
        Cell(words.exactness(row), "badge"),
        _ended(row),
    )


def _quality(row: Row, name: str, kind: str = "") -> Cell:
    return Cell(points(row[name]), kind, between(row[f"{name}_low"], row[f"{name}_high"]))


def _speed_up(row: Row, name: str) -> Cell:
    if row["method"] == REFERENCE:
        return Cell(numbers.times(row[name]), "muted")
    return ratio_cell(row, name)


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
        return Cell(words.OUTCOMES[row["outcome"]], "bad")
    seeds = numbers.count(int(row["ok_seeds"]), "seed")
    reasons = words.listing(STOPPED[each] for each in row["stopped"].split(", "))
    failed = row["ok_seeds"] < row["seeds"]
    note = f"{row['ok_seeds']:g} of {row['seeds']:g} seeds" if failed else seeds
    return Cell(reasons, "bad" if failed else "muted", note)


def time(seconds: float | None) -> str:
    """A duration, or that there is none."""
    return numbers.duration(seconds) if seconds is not None and numbers.exists(seconds) else numbers.MISSING


def every_seed(frames: TrainingFrames, limit: int = 500) -> Table:
    """One row per training."""
    columns = (
        Column("Method", numeric=False),
        Column("Seed"),
        *(Column(metric(name), "test split" if place == 0 else "") for place, name in enumerate(frames.metrics)),
        Column(metric(frames.metrics[0]), "best of validation"),
        Column("Time to best"),
        Column("Steps to best"),
        Column("Epochs to best"),
        Column("Time to e2e's quality"),
        Column("Trained for"),
        Column("Steps"),
        Column("Ended", numeric=False),
    )

    def line(row: Row) -> tuple[str, tuple[Cell, ...]]:
        ended = STOPPED.get(row["stopped"]) or words.OUTCOMES.get(row["outcome"], "goes on")
        return words.case(row), (
            Cell(row["label"], "strong"),
            Cell(numbers.plain(row["seed"])),
            *(Cell(points(row[f"test_{name}"])) for name in frames.metrics),
            Cell(points(row["validation"])),
            Cell(time(row["best_s"])),
            Cell(numbers.number(row["best_step"], 1)),
            Cell(numbers.number(row["best_epoch"])),
            Cell(time(row["quality_s"])),
            Cell(time(row["train_s"])),
            Cell(numbers.number(row["step"], 1)),
            Cell(ended, "muted" if row["outcome"] == "ok" else "bad"),
        )

    return grouped(columns, frames.seeds.to_dict("records"), line, limit)


def unfinished(frames: TrainingFrames, limit: int = 200) -> Table:
    """Every training that failed, with its reason."""
    columns = (
        Column("Case", numeric=False),
        Column("Method", numeric=False),
        Column("Seed"),
        Column("Outcome", numeric=False),
        Column("Reason", numeric=False),
    )
    failed = frames.seeds[frames.seeds["outcome"].notna() & (frames.seeds["outcome"] != "ok")]

    def line(row: Row) -> tuple[str, tuple[Cell, ...]]:
        return "", (
            Cell(words.case(row)),
            Cell(row["label"], "strong"),
            Cell(numbers.plain(row["seed"])),
            Cell(words.OUTCOMES[row["outcome"]], "bad"),
            Cell(row["reason"] or "no reason was recorded"),
        )

    return grouped(columns, failed.to_dict("records"), line, limit)
