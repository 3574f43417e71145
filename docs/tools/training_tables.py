"""Tables of trainings to their best, and of projected epochs."""

from __future__ import annotations

import math
import statistics

from scipy import stats

from bench.results import training
from bench.results.analysis.epochs import Epoch, epochs
from bench.results.analysis.stats import REFERENCE
from bench.results.schema import Record
from docs.tools.gallery import GALLERY, Row, code, conditions, interval, measured, memory, rows, run, table, trained
from reports import numbers
from reports.quality.paper import DATA_SETS, DataSet
from reports.quality.tables import between, difference, points


def quality_response() -> str:
    """Response prediction on MovieLens, every method."""
    return _quality("h100-train-response")


def quality_ranking() -> str:
    """Ranking on MovieLens, every method."""
    return _quality("h100-train-ranking")


def quality_peers() -> str:
    """The peers that keep encodings, with their defaults."""
    return _quality("h100-train-peers")


def quality_pace() -> str:
    """SpeedyFeed at another pace of reuse than its default."""
    name = "h100-train-peers-pace"
    settings = next(
        p.detail.method_settings for p in _points(name) if p.method == "speedyfeed" and p.detail.method_settings
    )
    return _quality(name, f"`method.speedyfeed.beta={settings['beta']:g}`")


def quality_auto() -> str:
    """N chosen while training, on two processor cores."""
    chosen = [p.detail.interval or 0 for p in _points("cpu-train-auto") if p.accumulation_steps == "auto"]
    return _quality("cpu-train-auto", f"N = auto went up to {max(chosen)}")


def _points(name: str) -> tuple[training.TrainingPoint, ...]:
    return training.load(GALLERY / name).points


def _quality(name: str, *more: str) -> str:
    summary = trained(name).summary
    seeds = f"{max(summary['ok_seeds']):g} seeds"
    head = ["method", "gradient:", "AUC", "against `e2e`, points", "cold-start AUC", "to its best",
            "to `e2e`'s quality", "times as soon", "peak memory"]  # fmt: skip
    said = conditions(name, rows(summary), "encoder", "cf_module", "precision", "engine", "users", "texts",
                      more=[*more, seeds])  # fmt: skip
    return f"{said}\n\n{table(head, [_line(row) for row in rows(summary)])}"


def _line(row: Row) -> list[str]:
    reference = row["method"] == REFERENCE
    ends = between(row["difference_auc_low"], row["difference_auc_high"], signed=True)
    reached = row["reached_seeds"] == row["goal_seeds"]
    sooner = f"{numbers.speed_up(row, 'speed_up_quality')} {interval(row, 'speed_up_quality')}"
    return [
        code(row["label"]), row["exactness"], points(row["test_auc"]),
        "" if reference else f"{difference(row['difference_auc'])} ({ends})",
        points(row["test_cold_auc"]), f"{row['best_s']:.1f} s",
        f"{row['quality_s']:.1f} s" if reached else f"{row['reached_seeds']:g} of {row['goal_seeds']:g} seeds",
        "" if reference or not reached else sooner,
        memory(row),
    ]  # fmt: skip


def projected_epochs() -> str:
    """An epoch of logs of the paper's sizes, with the paper's speed-ups to convergence."""
    found = epochs(run("h100-epochs").records)
    lines = [_epoch(log, [each for each in found if each.record.case["workload"] == log.key]) for log in DATA_SETS]
    head = ["log of the size of", "users a batch", "repetition ratio", "`e2e`, an epoch", "`e2e_unique`",
            "`single_step`", "in the paper", "`multi_step` 0.5E", "in the paper", "`multi_step` 1E",
            "in the paper"]  # fmt: skip
    said = conditions(
        "h100-epochs", rows(measured("h100-epochs").summary), "encoder", "precision", "engine", "processes"
    )
    return f"{said}\n\n{table(head, lines)}"


def _epoch(log: DataSet, found: list[Epoch]) -> list[str]:
    sizes = sorted({_users(each.record) for each in found})
    lines = {(_users(each.record), each.label): each for each in found}
    e2e = lines[sizes[0], REFERENCE]
    cells = [
        log.name, "; ".join(f"{size:,}" for size in sizes), numbers.number(e2e.item_repetition_ratio),
        f"{numbers.duration(e2e.seconds)} ({numbers.width(_half_width(e2e.record))})",
        numbers.scattered(lines[sizes[0], "e2e_unique"].speed_up, e2e.scatter),
    ]  # fmt: skip
    for size, label in ((sizes[0], "single_step"), (sizes[-1], "multi_step N=0.5E"), (sizes[-1], "multi_step N=1E")):
        reported = log.lines.get(label)
        theirs = "" if reported is None else f"{reported.speed_up:g}{numbers.TIMES}"
        cells += [numbers.scattered(lines[size, label].speed_up, lines[size, label].scatter), theirs]
    return cells


def _users(record: Record) -> int:
    return int(record.case["batch_size"] or 0)


def _half_width(record: Record) -> float:
    """Of the mean step time, by Student's t over windows: how much batches differ in load."""
    windows = record.samples_s
    error = statistics.stdev(windows) / math.sqrt(len(windows))
    return float(stats.t.ppf(0.975, len(windows) - 1)) * error / statistics.mean(windows)


def whole_intervals() -> str:
    """Intervals as long as an epoch, and half of one, that were waited for."""
    lines = []
    for part in ("1E", "0.5E"):
        (record,) = (
            r for r in run(f"h100-epochs-whole/{part}").records if r.accumulation_steps == part and r.samples_s
        )
        waited = record.samples_s[0] * (record.steps_per_sample or 0)
        lines.append([f"`multi_step` N={part}", f"{record.steps_per_sample:,}", numbers.duration(waited)])
    clicks = f"{(record.steps_per_epoch or 0) * _users(record) / 1e6:.2f} million clicks"
    found = [
        row
        for part in ("1E", "0.5E")
        for row in rows(measured(f"h100-epochs-whole/{part}").summary, method="multi_step")
    ]
    said = conditions("h100-epochs-whole/1E", found, "encoder", "precision", "engine", "users", "texts", more=[clicks])
    return f"{said}\n\n{table(['MIND with bodies', 'CF steps', 'one interval'], lines)}"
