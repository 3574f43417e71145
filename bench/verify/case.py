"""One case of `gram-bench verify`: its models in float64, a small batch of its own data, and steps of any method.

Every method starts from the same parameters and takes the same batches; only what it leaves behind is compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.build.assembly import build, build_method, optimization
from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.configuration.sweep import MethodLine, WorkItem
from bench.methods import REFERENCE
from bench.results.analysis.tiers import Ran
from gram_core.batch import Batch, ItemTable, every_slot, unique_items
from gram_core.exactness import GradientRecorder, parameters, relative_errors, total_norm
from gram_core.protocols import ItemSource
from gram_core.training import Optimization, Training

ROUNDING_ONLY = 1e-12
"""A parameter whose gradient stays below this share of the whole has none in exact arithmetic: it is rounding."""
LOOKED_AT = 1_000
"""Batches, at most, among which those with a history are looked for."""
WORK = {"cpu": 2e9, "cuda": 1e12}
"""Weights times tokens that end-to-end training may take per step: what a verification's time follows."""


@dataclass(frozen=True)
class Trace:
    """What some steps of a method leave: the first step's gradients as the optimizers got them, and all parameters.

    norms: each parameter's gradient norm, step by step.
    """

    gradients: dict[str, Tensor]
    parameters: dict[str, Tensor]
    norms: dict[str, list[float]]

    @property
    def silent(self) -> frozenset[str]:
        """Parameters whose gradients were rounding in every step, the bias of attention keys for one.

        An optimizer that divides by the gradient's size makes of rounding a walk of its own.
        """
        totals = [
            sum(step) ** 0.5 for step in zip(*([n * n for n in norm] for norm in self.norms.values()), strict=True)
        ]
        return frozenset(
            name
            for name, norm in self.norms.items()
            if all(part <= ROUNDING_ONLY * total for part, total in zip(norm, totals, strict=True))
        )


class VerifiedCase:
    """A case ready to be stepped by any method. `users`: as many users are taken, whatever it costs; None: a few."""

    def __init__(self, config: Config, case: Case, device: torch.device, steps: int, users: int | None):
        self.config = config
        built = build(config, WorkItem(case, MethodLine(REFERENCE, "eager")), device)
        self.training = built.training
        self.encoding = f"encoding: {built.encoding}"
        self.item = "text" if isinstance(built.training.table, ItemTable) else "picture"
        """What an item is, in a word."""
        self.modules: dict[str, nn.Module] = {"encoder": built.training.encoder, "cf": built.training.cf_module}  # type: ignore[dict-item]
        self.start = parameters(self.modules)
        self.ran: dict[str, Ran] = {}
        """By which of its tiers each engine ran the encoder, of those that have several."""
        slots = None if users else self._slots_within(WORK[device.type], case)
        self.batches, self.has_history = with_histories(
            lambda step: cut(built.workload.batches(step), users, slots), steps
        )
        self.batches = [with_a_repeat(batch) for batch in self.batches]

    def _slots_within(self, work: float, case: Case) -> int:
        """Item slots of a batch that end-to-end training takes within `work`, two users' candidates at least."""
        embedded = {id(part.weight) for part in self.training.encoder.modules() if isinstance(part, nn.Embedding)}  # type: ignore[attr-defined]
        weights = sum(p.numel() for p in self.training.encoder.parameters() if id(p) not in embedded)
        return int(work / max(1, weights) / case.text_length)

    @property
    def facts(self) -> str:
        """What the first batch holds."""
        batch = self.batches[0]
        slots, unique = len(every_slot(batch).items), len(unique_items(batch).items)
        return f"{batch.users} users, {slots} item slots, {unique} unique items"

    def trace(self, method: type[Any], settings: Any = None, engine: str = "eager") -> Trace:
        """The method's steps on every batch, without clipping, from the parameters that all methods start at."""
        run = self.config.run.model_copy(update={"max_grad_norm": None})
        moving = optimization(self.modules["encoder"], self.modules["cf"], run)
        pairs = (("encoder", moving.encoder_optimizer), ("cf", moving.cf_optimizer))
        watches = [_Watch(optimizer, prefix, self.modules[prefix]) for prefix, optimizer in pairs if optimizer]
        self._step(method, settings, engine, moving, self.batches)
        return Trace(
            {name: value for watch in watches for name, value in watch.first.items()},
            parameters(self.modules),
            {name: value for watch in watches for name, value in watch.norms.items()},
        )

    def gradients(
        self,
        method: type[Any],
        settings: Any = None,
        engine: str = "eager",
        *,
        max_grad_norm: float | None = None,
        table: ItemSource | None = None,
    ) -> dict[str, Tensor]:
        """What the method's first step hands to the optimizers. table: other texts than the case's."""
        recorders = {prefix: GradientRecorder(part) for prefix, part in self.modules.items()}
        recording = Optimization(recorders["encoder"], recorders["cf"], max_grad_norm=max_grad_norm)
        self._step(method, settings, engine, recording, self.batches[:1], table)
        return {f"{prefix}.{name}": value for prefix, part in recorders.items() for name, value in part.last.items()}

    def _step(
        self,
        method: type[Any],
        settings: Any,
        engine: str,
        stepped_by: Optimization,
        batches: Sequence[Batch],
        table: ItemSource | None = None,
    ) -> None:
        self._restore()
        training = replace(self.training, optimization=stepped_by, table=table or self.training.table)
        stepping = build_method(method, self._trained(training), settings or method.Settings(), engine)
        if (tier := stepping.tier) is not None:
            self.ran[engine] = Ran(tier.tier, tier.why_no_faster)
        torch.manual_seed(self.config.run.seed)
        for number, batch in enumerate(batches):
            stepping.step(self._stepped_on(number, batch))
        stepping.finish()

    def _trained(self, training: Training) -> Training:
        """What the method is given: here the training as it is."""
        return training

    def _stepped_on(self, number: int, batch: Batch) -> Batch:
        """What this process steps on: here the whole batch."""
        return batch

    def _restore(self) -> None:
        with torch.no_grad():
            for prefix, module in self.modules.items():
                for name, parameter in module.named_parameters():
                    parameter.copy_(self.start[f"{prefix}.{name}"])
                    parameter.grad = None

    def moved(self, trace: Trace, expected: Trace) -> dict[str, Tensor]:
        """How far parameters have come from the start; without those that in `expected` only rounding moves."""
        names = [name for name in expected.norms if name not in expected.silent]
        return {name: trace.parameters[name] - self.start[name] for name in names}

    def with_another_item(self) -> ItemSource | None:
        """The texts with one token of one item of the first batch exchanged, or that item with another picture; None
        where there is no other token or picture.

        An item of a user with a history, if there is one: others' losses depend on no text.
        """
        table, batch = self.training.table, self.batches[0]
        users = reading if (reading := _with_history(batch)).any() else torch.ones_like(reading)
        items = batch.items[users][batch.mask[users]].unique()
        item = int(items[torch.argmax(table.lengths[items])])
        if not isinstance(table, ItemTable):
            return Exchanged(table, item, (item + 1) % len(table)) if len(table) > 1 else None
        place = int(table.offsets[item] + table.lengths[item] // 2)
        starts, ends = table.offsets[:-1][items], table.offsets[1:][items]
        inner = [table.tokens[int(a) + 1 : int(b) - 1] for a, b in zip(starts, ends, strict=True)]
        others = torch.cat(inner) if inner else table.tokens
        others = others[others != table.tokens[place]]
        if not len(others):
            return None
        tokens = table.tokens.clone()
        tokens[place] = others[0]
        return ItemTable(tokens, table.offsets)


@dataclass(frozen=True, eq=False)
class Exchanged:
    """A catalogue in which an item is what another one is."""

    table: ItemSource
    item: int
    other: int

    @property
    def lengths(self) -> Tensor:
        """Tokens per item, int64 [I]."""
        lengths = self.table.lengths.clone()
        lengths[self.item] = lengths[self.other]
        return lengths

    def __len__(self) -> int:
        return len(self.table)

    def take(self, items: Tensor) -> Any:
        """What the encoder takes of `items` [n]."""
        return self.table.take(items.masked_fill(items == self.item, self.other))


class _Watch:
    """Notes the gradients that an optimizer steps with: copies of the first step's, norms of every step's."""

    def __init__(self, optimizer: Optimizer, prefix: str, module: nn.Module):
        self._named = {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}
        self.first: dict[str, Tensor] = {}
        self.norms: dict[str, list[float]] = {}
        optimizer.register_step_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        gradients = {name: p.grad.detach() for name, p in self._named.items() if p.grad is not None}
        if not self.norms:
            self.first = {name: gradient.clone() for name, gradient in gradients.items()}
        for name, gradient in gradients.items():
            self.norms.setdefault(name, []).append(total_norm([gradient]))


def with_histories(batches: Callable[[int], Batch], steps: int) -> tuple[list[Batch], bool]:
    """So many batches, those first in which somebody's history says something, and whether there is one.

    Where nobody has read or answered anything before, no loss depends on a text, and all methods agree on nothing.
    """
    speaking: list[Batch] = []
    silent: list[Batch] = []
    for step in range(LOOKED_AT):
        batch = batches(step)
        (speaking if _with_history(batch).any() else silent).append(batch)
        if len(speaking) == steps:
            break
    return [*speaking, *silent][:steps], bool(speaking)


def _with_history(batch: Batch) -> Tensor:
    """Which users, [B], have read an item, or answered two: the first of them is not predicted from anything."""
    least = 2 if batch.targets.dim() == 2 else 1
    return batch.mask[:, : batch.history_length].sum(1) >= least


def cut(batch: Batch, users: int | None, slots: int | None) -> Batch:
    """At most `users` of the batch's users, or as many (two at least), and as much history, as `slots` item slots hold.

    Users with a history go before those without. Of the history, the columns that most users have are kept, in their
    order.
    """
    candidates = batch.items.shape[1] - batch.history_length
    history, kept = batch.history_length, users or batch.users
    if slots is not None:
        kept = min(batch.users, max(2, slots // batch.items.shape[1]))
        history = min(history, max(2, slots // kept - candidates))
    rows = torch.sort(torch.argsort(_with_history(batch), descending=True, stable=True)[:kept]).values
    held = batch.mask[rows, : batch.history_length].sum(0)
    columns = torch.sort(torch.argsort(held, descending=True, stable=True)[:history]).values
    columns = torch.cat([columns, torch.arange(batch.history_length, batch.items.shape[1])])
    targets = batch.targets[rows]
    if targets.dim() == 2:
        targets = targets[:, columns]
    return Batch(batch.items[rows][:, columns], batch.mask[rows][:, columns], targets, len(columns) - candidates)


def with_a_repeat(batch: Batch) -> Batch:
    """The batch; where no item repeats in it, its last history slot takes its first one's item, so that one does.

    Without a repeat nothing would be deduplicated, and a method that gets repeats wrong would pass.
    """
    if len(unique_items(batch).items) < batch.item_slots:
        return batch
    held = torch.nonzero(batch.mask[:, : batch.history_length])
    if len(held) < 2:
        return batch
    items = batch.items.clone()
    items[tuple(held[-1])] = items[tuple(held[0])]
    return replace(batch, items=items)


def share_of(found: Mapping[str, float]) -> tuple[str, float]:
    """The name with the largest value, and the value."""
    worst = max(found, key=found.__getitem__)
    return worst, found[worst]


def worst_of(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest relative error of a parameter, and a note of which it is, or of one that is on one side only."""
    try:
        name, error = share_of(relative_errors(found, expected))
    except ValueError as problem:
        return float("inf"), str(problem)
    return error, f"worst: {name}" if error else ""
