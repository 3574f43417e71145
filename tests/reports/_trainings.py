"""Plausible training runs for the report's tests, built through the schema: saturating curves stand in for learning."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

from bench.results import store, training
from bench.results.schema import PeakMemory, RunInfo
from bench.results.training import TrainingPoint
from tests.reports import _runs

LINES: tuple[tuple[str, int | str | None, str, float, float, float, float], ...] = (
    ("e2e", None, "exact", 1.0, 0.752, 0.690, 1.0),
    ("single_step", None, "exact", 0.28, 0.752, 0.690, 1.0),
    ("multi_step", 10, "stale", 0.16, 0.749, 0.684, 1.15),
    ("multi_step", "0.5E", "stale", 0.06, 0.747, 0.681, 1.5),
    ("multi_step", "1E", "stale", 0.05, 0.745, 0.680, 1.7),
    ("frozen", None, "other-model", 0.02, 0.702, 0.650, 0.8),
    ("ids_only", None, "other-model", 0.015, 0.731, 0.502, 1.6),
)
"""Method, N, exactness, seconds per step, AUC and cold AUC it comes to, epochs that it takes compared with e2e."""
EPOCH, EVERY, PATIENCE = 100, 25, 4


def info(**changes: Any) -> RunInfo:
    """A training run's header."""
    config = {"run": {"seed": 0}, "train": {"seeds": [0, 1, 2], "metric": "auc", "tolerance": 0.005}}
    command = ("gram-bench", "train", "--preset", "full")
    return _runs.info(**({"kind": "train", "config": config, "command": command} | changes))


def course(
    line: tuple[str, int | str | None, str, float, float, float, float],
    seed: int,
    *,
    cf_module: str = "dkt",
    outcome: str = "ok",
    **case: Any,
) -> list[TrainingPoint]:
    """The points of one training."""
    method, steps, exactness, seconds, top, cold, slowness = line
    luck = random.Random(f"{method}{steps}{seed}{cf_module}")
    common = luck_of_seed(seed)
    axes: dict[str, Any] = {
        "workload": "movielens", "encoder": "minilm", "layers": None, "batch_size": 32, "history_length": 100,
        "text_length": 64, "item_repetition_ratio": None, "precision": "bf16", "cf_module": cf_module,
    }  # fmt: skip
    axes |= case
    identity: dict[str, Any] = {
        "case": axes, "method": method, "engine": "fast", "accumulation_steps": steps, "seed": seed,
        "exactness": exactness,
    }  # fmt: skip
    ranking = cf_module == "nrms"
    points: list[TrainingPoint] = []
    best, since = 0.0, 0
    every = EPOCH if steps == "1E" else EPOCH // 2 if steps == "0.5E" else EVERY
    while True:
        step = every * (len(points) + 1)
        share = 1 - math.exp(-step / (130 * slowness))
        fading = 0.004 * max(0.0, step / (700 * slowness) - 1)
        auc = 0.5 + (top + common - 0.5) * share - fading + luck.gauss(0, 0.0012)
        values: dict[str, float | None] = {"auc": auc, "cold_auc": 0.5 + (cold - 0.5) * share + luck.gauss(0, 0.004)}
        if ranking:
            values |= {"mrr": auc - 0.3, "ndcg_5": auc - 0.28, "ndcg_10": auc - 0.2}
        since = 0 if auc > best else since + 1
        best = max(best, auc)
        over = since >= PATIENCE
        peak = PeakMemory(allocated=int(_runs.GIB * (2 + 30 * seconds)), reserved=None, process=None)
        points.append(
            TrainingPoint(
                **identity,
                step=step,
                epoch=step / EPOCH,
                train_s=step * seconds * (1 + luck.gauss(0, 0.01)),
                interactions=step * 3200,
                loss=0.7 - 0.2 * share,
                validation=values,
                test={name: value - 0.01 for name, value in values.items() if value is not None} if not since else {},
                evaluation_s=2.0,
                peak_memory_bytes=peak,
                outcome="ok" if over else None,
                stopped="patience" if over else None,
                detail={"weights": "real", "encoder": "MiniLM", "workload": {"users": 943}} if over else {},
            )
        )
        if outcome != "ok" and len(points) == 3:
            failed = {"outcome": outcome, "reason": "CUDA ran out of memory", "validation": {}, "test": {}}
            return [*points, points[-1].model_copy(update=failed)]
        if over:
            return points


def luck_of_seed(seed: int) -> float:
    """What a seed shifts for all lines alike."""
    return random.Random(seed).gauss(0, 0.004)


def several(lines: Any = LINES, seeds: tuple[int, ...] = (0, 1, 2), **case: Any) -> list[TrainingPoint]:
    """Every line with every seed."""
    return [point for seed in seeds for line in lines for point in course(line, seed, **case)]


def mixed() -> list[TrainingPoint]:
    """Two tasks; in the second, one line runs out of memory."""
    ranking = [point for line in LINES[1:] for point in course(line, 0, cf_module="nrms")]
    return [*several(), *course(LINES[0], 0, cf_module="nrms", outcome="oom"), *ranking]


def two_tasks() -> list[TrainingPoint]:
    """Response prediction and ranking, every line of both with every seed."""
    return [*several(), *several(cf_module="nrms", history_length=50)]


def hardly_sooner() -> list[TrainingPoint]:
    """single_step gets there, in a time that three seeds don't tell from e2e's."""
    return several((LINES[0], ("single_step", None, "exact", 0.9, 0.752, 0.690, 1.0)))


ONE_CLASS = "each of its responses is right"


def undefined(points: list[TrainingPoint], splits: tuple[str, ...] = ("validation", "test")) -> list[TrainingPoint]:
    """The same trainings where these held-out splits hold one class, so that no metric is defined on them."""
    told = {"undecidable": dict.fromkeys(splits, ONE_CLASS)}
    made = []
    for point in points:
        changes: dict[str, Any] = {split: dict.fromkeys(getattr(point, split)) for split in splits}
        changes |= {"test": {}} if "validation" in splits else {}
        changes |= {"detail": point.detail.model_copy(update=told)} if point.outcome is not None else {}
        made.append(point.model_copy(update=changes))
    return made


def _with(points: list[TrainingPoint], **changes: Any) -> list[TrainingPoint]:
    return [point.model_copy(update=changes) for point in points]


SCENARIOS = {
    "three_seeds": several,
    "mixed": mixed,
    "one_seed": lambda: several(seeds=(0,)),
    "no_e2e": lambda: several(LINES[1:3]),
    "only_e2e": lambda: several(LINES[:1]),
    "never_reached": lambda: several((LINES[0], LINES[5])),
    "all_failed": lambda: [course(line, 0, outcome="oom")[-1] for line in LINES[:2]],
    "one_class": lambda: undefined(several(seeds=(0, 1))),
    "one_class_in_test": lambda: undefined(several(seeds=(0,)), ("test",)),
    "one_class_of_e2e": lambda: [*undefined(several(LINES[:1])), *several(LINES[1:])],
    "nothing_held_out": lambda: _with(several(seeds=(0,)), validation={}, test={}),
    "no_cold_items": lambda: [
        point.model_copy(update={"validation": point.validation | {"cold_auc": None}}) for point in several(seeds=(0,))
    ],
    "no_time_passed": lambda: _with(several(seeds=(0, 1)), train_s=0.0),
    "far_names": lambda: several(seeds=(0,), workload="table", encoder="path:/data/\u6a21\u578b \u00e9"),
    "interrupted": lambda: [*several(seeds=(0,)), *course(LINES[0], 1)[:2]],
    "nothing_yet": list,
}


def write(base: Path, points: list[TrainingPoint], header: RunInfo | None = None) -> Path:
    """A training run's directory holding these points."""
    run_dir = store.create_run_dir(base, "train")
    ended = sum(point.outcome is not None for point in points)
    store.write_info(run_dir, (header or info()).model_copy(update={"planned_records": ended}))
    text = "".join(point.model_dump_json() + "\n" for point in points)
    (run_dir / training.POINTS_FILE).write_text(text, encoding="utf-8")
    return run_dir


if __name__ == "__main__":
    print(write(Path(sys.argv[2]), SCENARIOS[sys.argv[1]]()))
