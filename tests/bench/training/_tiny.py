"""A training small enough for a test: a tiny encoder on clicks that its texts explain, with data held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.build import assembly
from bench.configuration.case import Case
from bench.configuration.config import Config, ModelSettings, RunSettings, Train
from bench.configuration.sweep import MethodLine
from bench.results import store
from bench.training.plan import TrainItem, TrainJob
from bench.workloads._base import HeldOut, Scored, Workload
from gram_core.batch import Batch, ItemTable
from tests.bench import _small_runs

ITEMS, COLD, USERS, HISTORY, CANDIDATES, EPOCH = 40, 8, 6, 5, 4, 6
CASE = Case(**{**_small_runs.CASE.axes(), "batch_size": USERS, "history_length": HISTORY})  # type: ignore[arg-type]


def settings(**train: Any) -> Config:
    """A configuration that trains for a few steps."""
    quick = {"seeds": (0,), "max_steps": 12, "evaluate_every": 3, "schedule": "noam", "warmup_steps": 5}
    return Config(
        run=RunSettings(device="cpu", learning_rate=0.01, plugins=(_small_runs.FAULTY,)),
        model=ModelSettings(),
        train=Train(**{**quick, **train}),
    )


def item(method: str, steps: int | str | None = None, seed: int = 0, cf_module: str = "nrms") -> TrainItem:
    """One training of the tiny case."""
    case = Case(**{**CASE.axes(), "cf_module": cf_module})  # type: ignore[arg-type]
    return TrainItem(case, MethodLine(method, "eager", steps), seed)


def job(config: Config, trained: TrainItem, run_dir: Path) -> TrainJob:
    """What a worker would be started with."""
    return TrainJob(config, trained, run_dir)


def run_dir(base: Path, config: Config, planned: int = 1) -> Path:
    """A training run's directory before its first point."""
    made = _small_runs.new_run(base, config, planned)
    store.write_info(made, store.read_info(made).model_copy(update={"kind": "train"}))
    return made


def workload(task: str = "ranking", seed: int = 0) -> Workload:
    """Half of the items begin with one token, half with another: users click what their history begins with.

    In response prediction a response is right where the item's text begins with the first token. The last COLD items
    are in no training batch.
    """
    kinds = torch.arange(ITEMS) % 2
    table = ItemTable.from_lists([[1, 10 + int(kind), 20 + number % 5, 2] for number, kind in enumerate(kinds)])

    def batch(number: int, stream: int) -> Scored:
        generator = torch.Generator().manual_seed(1000 * (1000 * stream + number) + seed)
        return (_ranking if task == "ranking" else _responses)(kinds, generator, cold=stream > 0)

    return Workload(
        table,
        lambda step: batch(step, 0).batch,
        EPOCH,
        {"items": ITEMS},
        validation=HeldOut(lambda number: batch(number, 1), 4),
        test=HeldOut(lambda number: batch(number, 2), 4),
        cold_items=torch.arange(ITEMS - COLD, ITEMS),
    )


def _ranking(kinds: Tensor, generator: torch.Generator, *, cold: bool) -> Scored:
    first, last = 0, ITEMS - COLD
    liked = torch.randint(2, (USERS,), generator=generator)
    is_cold = torch.rand(USERS, generator=generator) < 0.5 if cold else torch.zeros(USERS, dtype=torch.bool)
    low, high = torch.where(is_cold, last, first), torch.where(is_cold, ITEMS, last)

    def drawn(kind: Tensor, least: Tensor, most: Tensor) -> Tensor:
        pairs = torch.rand(len(kind), generator=generator) * (most - least) / 2
        return least + 2 * pairs.long() + kind

    warm = torch.full((USERS,), first), torch.full((USERS,), last)
    history = torch.stack([drawn(liked, *warm) for _ in range(HISTORY)], dim=1)
    clicked = torch.randint(CANDIDATES, (USERS,), generator=generator)
    candidates = torch.stack([drawn(1 - liked, low, high) for _ in range(CANDIDATES)], dim=1)
    candidates[torch.arange(USERS), clicked] = drawn(liked, low, high)
    items = torch.cat([history, candidates], dim=1)
    return Scored(Batch(items, torch.ones_like(items, dtype=torch.bool), clicked, HISTORY), is_cold)


def _responses(kinds: Tensor, generator: torch.Generator, *, cold: bool) -> Scored:
    items = torch.randint(ITEMS if cold else ITEMS - COLD, (USERS, HISTORY), generator=generator)
    mask = torch.rand(USERS, HISTORY, generator=generator) < 0.9
    mask[:, -1] = True
    return Scored(Batch(items, mask, (kinds[items] == 1).float() * mask, HISTORY), items >= ITEMS - COLD)


def install(monkeypatch: Any) -> None:
    """Has `build` hand out the tiny workload; the rest of it stays what it is."""

    def built(config: Config, case: Case, loaded: Any, task: str, hold_out: Any = None) -> Workload:
        assert hold_out == config.train.hold_out, "a training asks for held-out data"
        return workload(task, config.run.seed)

    monkeypatch.setattr(assembly, "build_workload", built)
