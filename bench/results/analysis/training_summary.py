"""From evaluation points to the table of trainings: quality with its interval over seeds, times to it, speed-ups.

Definitions
- best: the evaluation with the highest validation metric, the first of equals. A training's quality is the test split
  as scored there, and `best_s` its wall-clock up to there: the time to convergence.
- `quality_s`: wall-clock up to the first evaluation whose validation metric is at least e2e's best of the same seed
  minus the tolerance; for e2e itself likewise.
- A mean over seeds has Student's t interval on seeds - 1 degrees of freedom; differences to e2e are taken seed by seed
  first. Speed-ups are geometric means over seeds of e2e's time over the line's.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import pandas as pd

from bench.results.analysis import stats
from bench.results.analysis.frames import IDENTITY, FrameSet, Row, frame, identity_row, memory, with_ends, with_interval
from bench.results.analysis.stats import REFERENCE
from bench.results.identity import Line, line_of
from bench.results.training import TrainingPoint, trainings

_TEXT = ("outcome", "reason", "stopped", "undecidable", "memory_kind")
_MEANS = ("validation", "train_s", "best_s", "quality_s", "step", "epoch", "best_step", "best_epoch", "interactions")
_RATIOS = {"best": "best_s", "quality": "quality_s", "epochs": "best_step"}


@dataclass(frozen=True)
class TrainingFrames(FrameSet):
    """Three views of one training run; numbers are floats, NaN where there is none.

    metrics: names of what was judged, the one that decides on a best first. points: one row per evaluation. seeds: one
    row per training. summary: one row per line, seeds joined: `test_M` with `_low` and `_high`, `difference_M` to e2e
    likewise, `speed_up_best`, `speed_up_quality` and `speed_up_epochs` (steps to the best) against e2e likewise.
    """

    metrics: tuple[str, ...]
    points: pd.DataFrame
    seeds: pd.DataFrame
    summary: pd.DataFrame


def frames(points: Iterable[TrainingPoint], metric: str = "auc", tolerance: float = 0.005) -> TrainingFrames:
    """All derived numbers; metric: what a best is judged by, tolerance: how near to e2e's best counts as reached."""
    found = list(trainings(points).values())
    metrics = _metrics(found, metric)
    rows = [_seed_row(own, metrics) for own in found]
    curves = [_point_row(point, metrics) for own in found for point in own if point.validation]
    _add_reached(rows, found, metric, tolerance)
    summary = _summary(rows, metrics)
    return TrainingFrames(
        metrics,
        frame(curves, (*IDENTITY, "seed", *_point_columns(metrics)), _TEXT),
        frame(rows, (*IDENTITY, "seed", *_seed_columns(metrics)), _TEXT),
        frame(summary, (*IDENTITY, *_summary_columns(metrics)), _TEXT),
    )


def _metrics(found: Sequence[Sequence[TrainingPoint]], metric: str) -> tuple[str, ...]:
    names = {metric, *(name for own in found for point in own for name in point.validation)}
    return tuple(sorted(names, key=lambda name: (name != metric, name != f"cold_{metric}", _numbered(name))))


def _numbered(name: str) -> tuple[str, int]:
    """ndcg_5 before ndcg_10."""
    stem, _, number = name.rpartition("_")
    return (stem, int(number)) if number.isdigit() else (name, 0)


def _point_columns(metrics: Sequence[str]) -> tuple[str, ...]:
    scored = (f"{split}_{name}" for split in ("validation", "test") for name in metrics)
    return ("step", "epoch", "train_s", "interactions", "loss", *scored)


def _point_row(point: TrainingPoint, metrics: Sequence[str]) -> Row:
    row = identity_row(point, point.detail)
    row |= {name: getattr(point, name) for name in ("seed", "step", "epoch", "train_s", "interactions", "loss")}
    for name in metrics:
        row |= {f"validation_{name}": point.validation.get(name), f"test_{name}": point.test.get(name)}
    return row


def _seed_columns(metrics: Sequence[str]) -> tuple[str, ...]:
    measured = ("train_s", "step", "epoch", "interactions", "validation", "best_s", "best_step", "best_epoch")
    tests = (f"test_{name}" for name in metrics)
    return (
        "outcome",
        "reason",
        "stopped",
        "undecidable",
        *measured,
        "quality_s",
        *tests,
        "memory_bytes",
        "memory_kind",
    )


def _seed_row(own: Sequence[TrainingPoint], metrics: Sequence[str]) -> Row:
    """One training; its best is where the test split was scored last."""
    last = own[-1]
    row = identity_row(last, last.detail)
    row |= {name: getattr(last, name) for name in ("seed", "outcome", "reason", "stopped")}
    splits = last.detail.undecidable
    row["undecidable"] = " and ".join(f"the {split} split ({reason})" for split, reason in splits.items()) or None
    row |= {name: getattr(last, name) for name in ("train_s", "step", "epoch", "interactions")}
    best = next((point for point in reversed(own) if point.test), None)
    if best is not None:
        row |= {"validation": best.validation.get(metrics[0]), "best_s": best.train_s}
        row |= {"best_step": best.step, "best_epoch": best.epoch}
        row |= {f"test_{name}": best.test.get(name) for name in metrics}
    peaks = last.peak_memory_bytes
    return row | memory(peaks.allocated, peaks.process)


def _add_reached(rows: Sequence[Row], found: Sequence[Sequence[TrainingPoint]], metric: str, tolerance: float) -> None:
    """`quality_s` of every training whose case and seed e2e has finished too."""
    best = {
        (line_of(row).setting, row["seed"]): row["validation"]
        for row in rows
        if row["method"] == REFERENCE and row["outcome"] == "ok" and row.get("validation") is not None
    }
    for row, own in zip(rows, found, strict=True):
        goal = best.get((line_of(row).setting, row["seed"]))
        if goal is None:
            continue
        row["goal"] = goal
        for point in own:
            value = point.validation.get(metric)
            if value is not None and value >= goal - tolerance:
                row["quality_s"] = point.train_s
                break


def _summary_columns(metrics: Sequence[str]) -> tuple[str, ...]:
    tests = with_ends(*(f"{kind}_{name}" for name in metrics for kind in ("test", "difference")))
    ratios = with_ends(*(f"speed_up_{name}" for name in _RATIOS))
    ended = ("outcome", "reason", "stopped", "undecidable", "seeds", "ok_seeds", "goal_seeds", "reached_seeds")
    return (*ended, *tests, *_MEANS, *ratios, "memory_bytes", "memory_kind", "memory_ratio")


def _summary(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    lines: dict[Line, list[Row]] = {}
    for row in rows:
        lines.setdefault(line_of(row), []).append(row)
    return [_summary_row(own, lines.get(Line(line.setting, REFERENCE), []), metrics) for line, own in lines.items()]


def _summary_row(own: list[Row], reference: list[Row], metrics: Sequence[str]) -> Row:
    """Joins the seeds of a line: `ok` if any is, with the first failure's reason."""
    done = [row for row in own if row["outcome"] == "ok"]
    failed = [row for row in own if row["outcome"] not in ("ok", None)]
    row: Row = {name: own[0][name] for name in IDENTITY}
    row["outcome"] = "ok" if done else failed[0]["outcome"] if failed else None
    row["reason"] = failed[0]["reason"] if failed else None
    row["stopped"] = ", ".join(dict.fromkeys(each["stopped"] for each in done))
    row["undecidable"] = next((each["undecidable"] for each in done if each["undecidable"]), None)
    row |= {"seeds": len(own), "ok_seeds": len(done)}
    row["goal_seeds"], row["reached_seeds"] = len(_known(done, "goal")), len(_known(done, "quality_s"))
    for name in metrics:
        row |= _mean(f"test_{name}", _known(done, f"test_{name}"))
        if own[0]["method"] != REFERENCE:
            row |= _mean(f"difference_{name}", _paired(done, reference, f"test_{name}", lambda a, b: a - b))
    row |= {name: fmean(values) for name in _MEANS if (values := _known(done, name))}
    if row["reached_seeds"] < row["goal_seeds"]:
        row.pop("quality_s", None)  # a mean over those that got there would praise a line for those that did not
    for name, column in _RATIOS.items():
        logs = _paired(_above_zero(done, column), _above_zero(reference, column), column, lambda a, b: math.log(b / a))
        if logs and (name != "quality" or row["reached_seeds"] == row["goal_seeds"]):
            ratio = stats.estimate(logs)
            row |= with_interval(f"speed_up_{name}", ratio.value, ratio.interval)
    row |= _memory(done, reference)
    return row


def _known(rows: Iterable[Row], column: str) -> list[float]:
    return [row[column] for row in rows if row.get(column) is not None]


def _above_zero(rows: Iterable[Row], column: str) -> list[Row]:
    return [row for row in rows if (row.get(column) or 0) > 0]


def _paired(
    own: Iterable[Row], reference: Iterable[Row], column: str, of: Callable[[float, float], float]
) -> list[float]:
    """`of(line, e2e)` of every seed that both have."""
    theirs = {row["seed"]: row[column] for row in reference if row["outcome"] == "ok" and row.get(column) is not None}
    return [
        of(row[column], theirs[row["seed"]]) for row in own if row["seed"] in theirs and row.get(column) is not None
    ]


def _mean(name: str, values: Sequence[float]) -> Row:
    return dict(zip(with_ends(name), stats.mean_interval(values), strict=True)) if values else {}


def _memory(done: Sequence[Row], reference: Sequence[Row]) -> Row:
    values = _known(done, "memory_bytes")
    if not values:
        return {}
    row: Row = {"memory_bytes": median(values), "memory_kind": done[0]["memory_kind"]}
    theirs = [each for each in reference if each["outcome"] == "ok" and each.get("memory_kind") == row["memory_kind"]]
    if theirs:
        row["memory_ratio"] = row["memory_bytes"] / median(_known(theirs, "memory_bytes"))
    return row
