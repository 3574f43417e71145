"""`gram-bench verify`: are the exact methods exact, on the user's own encoder, data and configuration?

Each distinct workload, encoder, depth, history and text length of the sweep is built as a run would build it, but in
float64, without dropout and with few users. What end-to-end training leaves in every parameter is then compared with
what each exact method leaves there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from bench.build.assembly import cf_module_class
from bench.configuration import sweep
from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.configuration.sweep import MethodLine
from bench.errors import UsageError
from bench.methods import REFERENCE, Unavailable, check_available, method_class
from bench.results.analysis.tiers import Ran, fallback
from bench.verify import ranks
from bench.verify.case import LOOKED_AT, Trace, VerifiedCase, share_of, worst_of
from bench.workloads import _base as workloads
from gram_core.batch import unique_items
from gram_core.exactness import Float64Throughout, relative_errors, total_norm

STEPS = 5
"""Optimizer steps after which parameters are compared."""
MOST_CASES = {"cpu": 4, "cuda": 8}
FEW_USERS = 4

GRADIENTS = 1e-10
"""Far above rounding in float64, which is about 1e-14 here, and far below any mistake."""
PARAMETERS = 1e-4
"""Of the distance that a parameter has moved. AdamW divides by the gradient's size, down to 1e-8, and so makes of
rounding in the 16th digit one in the 8th, and of that more in every step; a wrong gradient changes the first digit."""
ALIVE = 1e-8
"""The least norm of a gradient that is no rounding."""
CHANGED = 1e-6
"""The least relative change of gradients that another text makes."""

NO_GRADIENT = (
    f"nobody in the first {LOOKED_AT:,} batches has a history, so that no loss depends on a text and there is no "
    "gradient to compare; verify needs a log with histories, or another CF module"
)


@dataclass(frozen=True)
class Tolerances:
    """The most that an engine's gradients, and the distances its parameters have moved, may differ, relatively."""

    gradients: float = GRADIENTS
    parameters: float = PARAMETERS


TOLERANCES: Mapping[str, Tolerances] = {"eager": Tolerances()}
"""By engine; one that isn't named has to do as well as eager."""


@dataclass(frozen=True)
class VerifyRow:
    """One comparison. bound: whether `error` must stay below `tolerance`, or, in a guard, reach it."""

    case: str
    check: str
    method: str
    error: float
    tolerance: float
    passed: bool
    note: str = ""
    bound: Literal["at most", "at least"] = "at most"


@dataclass(frozen=True)
class VerifyReport:
    """Every comparison, and what was not compared."""

    rows: tuple[VerifyRow, ...]
    left_out: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Lines that can't run here, and cases that have no gradient, with the reason."""
    ran: tuple[str, ...] = ()
    """How engines of several tiers ran encoders, in float64; a run in another precision may take another tier."""

    @property
    def passed(self) -> bool:
        """Whether something was compared and everything held."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    def print_table(self, console: Console) -> None:
        """A table per case, what failed, and the verdict."""
        for case in dict.fromkeys(row.case for row in self.rows):
            table = Table("method", "check", "found", "", title=case, title_justify="left", box=box.SIMPLE)
            for row in self.rows:
                if row.case == case:
                    bound = "<=" if row.bound == "at most" else ">="
                    verdict = "[green]ok[/green]" if row.passed else "[red]FAILED[/red]"
                    table.add_row(row.method, row.check, f"{row.error:.1e} {bound} {row.tolerance:.0e}", verdict)
            console.print(table)
        for line in self.ran:
            console.print(Text(line))
        if self.left_out:
            console.print(f"not verified, for time: {'; '.join(self.left_out)}", highlight=False)
        for line in self.skipped:
            console.print(Text(f"skipped: {line}"))
        for row in self.rows:
            if not row.passed:
                console.print(f"[red]{row.method} failed[/red]: {row.check} ({row.note}); {row.case}", highlight=False)
        if self.passed:
            console.print(f"exact: all {len(self.rows)} checks hold in float64, dropout off", highlight=False)


def verify(
    config: Config,
    device: torch.device | str,
    *,
    users: int | None = None,
    say: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Compares every exact method of the sweep with end-to-end training, in float64.

    users: users per batch; None takes at most four, and fewer, with less history, where the encoder is large.
    say: called with each case as it begins. Raises UsageError where the sweep has nothing to verify or cannot be built.
    """
    device = torch.device(device)
    off = config.model_copy(update={"run": config.run.model_copy(update={"dropout": "off", "blocks": 1})})
    groups = _groups(off)
    chosen, left_out = groups[: MOST_CASES[device.type]], groups[MOST_CASES[device.type] :]
    rows: list[VerifyRow] = []
    silent: list[str] = []
    refused: list[str] = []
    ran: dict[str, None] = {}
    missing = {line: reason for _, lines in chosen for line in lines if (reason := _missing(config, line))}
    for cases, lines in chosen:
        case = _small(off, cases, users or FEW_USERS)
        if say is not None:
            say(_label(case))
        with Float64Throughout():
            try:
                verified = VerifiedCase(off, case, device, STEPS, users)
            except ValueError as error:
                raise UsageError(f"{_label(case)}: {error}") from error
            compared = _Comparison(off, verified, f"{_label(case)}: {verified.facts}; {verified.encoding}")
            if compared.total < ALIVE and not verified.has_history:
                silent.append(f"{_label(case)}: {NO_GRADIENT}")
                continue
            rows += compared.rows([line for line in lines if line not in missing])
            refused += compared.refused
        ran |= dict.fromkeys(_ran(case, engine, tier) for engine, tier in verified.ran.items())
    for size, asked in _together(off).items():
        several = asked[: MOST_CASES[device.type] // 2]
        left_out += asked[len(several) :]
        for cases, lines in several:
            case = replace(_small(off, cases, users or max(FEW_USERS, 2 * size)), world_size=size)
            if say is not None:
                say(f"{_label(case)} world_size={size}")
            known = tuple(line for line in lines if line not in missing)
            rows += _on_ranks(ranks.Asked(off, case, known, device.type, STEPS, users))
    if silent and not rows:
        raise UsageError(silent[0])
    skipped = (*(f"{line}: {reason}" for line, reason in missing.items()), *silent, *refused)
    return VerifyReport(tuple(rows), tuple(_label(cases[0]) for cases, _ in left_out), skipped, tuple(ran))


def _ran(case: Case, engine: str, tier: Ran) -> str:
    return fallback(case.axes(), engine, tier) or f"the engine {engine} runs {case.encoder} by its tier {tier.tier!r}"


def _on_ranks(asked: ranks.Asked) -> list[VerifyRow]:
    answer = ranks.compare(asked)
    label = f"{_label(asked.case)}, {asked.case.world_size} processes: {answer.facts}"
    made = []
    for row in answer.rows:
        tolerances = _tolerances(row.line)
        tolerance = tolerances.gradients if row.what == "gradients" else tolerances.parameters
        passed = row.error <= tolerance
        made.append(VerifyRow(label, row.check, str(row.line), row.error, tolerance, passed, row.note))
    return made


def _together(config: Config) -> dict[int, list[tuple[list[Case], list[MethodLine]]]]:
    """By world size, the groups that several processes train on."""
    sizes = sorted({item.case.world_size for item in sweep.plan(config)} - {1})
    return {size: _groups(config, size) for size in sizes}


def _missing(config: Config, line: MethodLine) -> str | None:
    """Why a line can't run here; None where it can."""
    try:
        check_available(method_class(line.method, config.run.plugins))
    except Unavailable as unavailable:
        return str(unavailable)
    return None


def _groups(config: Config, world_size: int | None = None) -> list[tuple[list[Case], list[MethodLine]]]:
    """Cases that differ only in batch, ratio, precision and processes, with the lines to verify on them.

    world_size: only those of so many processes; None takes all, as if of one.

    The smallest of each workload, CF module and encoder come first, then the others by size.
    """
    found: dict[tuple[Any, ...], tuple[dict[Case, None], dict[MethodLine, None]]] = {}
    for item in sweep.plan(config):
        case = item.case
        if world_size not in (None, case.world_size):
            continue
        model = (case.encoder, case.adapter, case.layers)
        key = (case.workload, case.cf_module, *model, case.history_length, case.text_length)
        cases, lines = found.setdefault(key, ({}, {}))
        cases[case] = None
        lines[replace(item.line, accumulation_steps=None)] = None
    groups = [
        (list(cases), kept)
        for cases, lines in found.values()
        if (kept := [line for line in lines if _is_verified(config, line)])
    ]
    if not groups:
        raise UsageError("the sweep has no exact method besides e2e; add single_step to sweep.method to verify it")
    groups.sort(key=lambda group: _size(group[0][0]))
    seen: dict[tuple[str, str, str], int] = {}
    order = []
    for group in groups:
        name = (group[0][0].workload, group[0][0].cf_module, group[0][0].encoder)
        order.append(seen.setdefault(name, 0))
        seen[name] += 1
    return [group for _, group in sorted(zip(order, groups, strict=True), key=lambda pair: pair[0])]


def _size(case: Case) -> tuple[float, int]:
    return (case.layers or float("inf")), case.history_length * case.text_length


def _is_verified(config: Config, line: MethodLine) -> bool:
    """Exact methods, and those that are with N = 1, say; end-to-end training itself where an engine runs it."""
    if line.method == REFERENCE:
        return line.engine != "eager"
    chosen = method_class(line.method, config.run.plugins)
    return chosen.exact_with is not None or chosen.exactness == "exact"


def _small(config: Config, cases: list[Case], users: int) -> Case:
    """The group's case with at most `users` users, in float64, at the highest ratio that so few slots allow."""
    case = max(cases, key=lambda case: case.item_repetition_ratio or 0)
    small = replace(
        case,
        precision="float64",
        world_size=1,
        deduplicate="local",
        batch_size=min(users, max(case.batch_size for case in cases)),
    )
    if small.item_repetition_ratio is None:
        return small
    scheme = workloads.split(small.workload)[0]
    module = workloads.load(small.workload)
    task = cf_module_class(small.cf_module).task
    ratios = sorted({case.item_repetition_ratio or 1.0 for case in cases} | {2.0, 1.0}, reverse=True)
    for ratio in ratios:
        tried = replace(small, item_repetition_ratio=ratio)
        try:
            axes = workloads.axes_of(tried, config.model.candidates, task)
            module.check(config.workload.get(scheme) or module.Settings(), axes)
        except ValueError:
            continue
        return tried
    return small


def _label(case: Case) -> str:
    depth = "" if case.layers is None else f" layers={case.layers}"
    adapter = "" if case.adapter == "none" else f" adapter={case.adapter}"
    sizes = f"history={case.history_length} text={case.text_length}"
    return f"{case.workload} {case.cf_module} {case.encoder}{depth}{adapter} {sizes}"


class _Comparison:
    """The rows of one case."""

    def __init__(self, config: Config, case: VerifiedCase, label: str):
        self.config, self.case, self.label = config, case, label
        self.refused: list[str] = []
        """Lines that can't run this encoder, with the reason."""
        self.e2e = method_class(REFERENCE)
        self.reference = case.trace(self.e2e)
        self.total = total_norm(self.reference.gradients.values())
        self._single_step: Trace | None = None
        self.clipped = case.gradients(self.e2e, max_grad_norm=self.total / 2)

    def rows(self, lines: list[MethodLine]) -> Iterator[VerifyRow]:
        """Guards first, then each line."""
        yield from self._guards()
        for line in lines:
            try:
                exact = method_class(line.method, self.config.run.plugins).exactness == "exact"
                yield from self._exact(line) if exact else self._exact_intervals(line)
            except Unavailable as refused:
                self.refused.append(f"{self.label}: {line}: {refused}")
            except Exception as error:  # a method that fails, in whatever way, is not verified: said, not raised
                note = f"{type(error).__name__}: {error}".partition("\n")[0]
                yield VerifyRow(self.label, "runs", str(line), float("inf"), 0.0, False, note)

    def _guards(self) -> Iterator[VerifyRow]:
        """The comparisons compare something."""
        silent = self.reference.silent
        note = f"{len(self.reference.norms)} parameters have one" + (
            f", in {len(silent)} it is rounding" if silent else ""
        )
        alive = self.total >= ALIVE and len(silent) < len(self.reference.norms) / 2
        yield VerifyRow(self.label, "gradients exist", REFERENCE, self.total, ALIVE, alive, note, "at least")
        other = self.case.with_another_item()
        check = f"another {self.case.item} changes them"
        if other is None:
            note = "the items of this batch are all alike: one token, or one picture"
            yield VerifyRow(self.label, check, REFERENCE, 0.0, CHANGED, False, note, "at least")
            return
        name, change = share_of(relative_errors(self.case.gradients(self.e2e, table=other), self.reference.gradients))
        passed = change >= CHANGED
        yield VerifyRow(self.label, check, REFERENCE, change, CHANGED, passed, name, "at least")

    def _exact(self, line: MethodLine) -> Iterator[VerifyRow]:
        method = method_class(line.method, self.config.run.plugins)
        settings = method.Settings(**self.config.method.get(line.method, {}))
        trace = self.case.trace(method, settings, line.engine)
        if line == MethodLine("single_step", "eager"):
            self._single_step = trace
        yield self._gradients("gradients", line, trace.gradients, self.reference.gradients)
        clipped = self.case.gradients(method, settings, line.engine, max_grad_norm=self.total / 2)
        yield self._gradients("gradients, clipped", line, clipped, self.clipped)
        budgets = {name: self._third() for name in ("chunk_tokens", "kept_tokens") if hasattr(settings, name)}
        if budgets:
            small = replace(settings, **budgets)
            recomputed = self.case.gradients(method, small, line.engine)
            yield self._gradients("gradients, recomputed", line, recomputed, self.reference.gradients)
        yield self._parameters(line, trace, self.reference)

    def _exact_intervals(self, line: MethodLine) -> Iterator[VerifyRow]:
        """Multi-step GRAM with one step and one CE minibatch an interval is Single-step GRAM."""
        expected = self._single_step or self.case.trace(method_class("single_step"))
        method = method_class(line.method, self.config.run.plugins)
        settings = method.Settings(**method.exact_with)
        trace = self.case.trace(method, settings, line.engine)
        line = replace(line, accumulation_steps=settings.accumulation_steps)
        yield self._gradients("gradients, as single_step's", line, trace.gradients, expected.gradients)
        yield self._parameters(line, trace, expected)

    def _third(self) -> int:
        """A token budget that cuts the first batch in about three chunks, of which two are recomputed."""
        training = self.case.training
        lengths = training.table.lengths[unique_items(self.case.batches[0]).items]
        return max(1, int(training.encoder.computed_tokens(lengths).sum()) // 3)

    def _gradients(
        self, check: str, line: MethodLine, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
    ) -> VerifyRow:
        return self._row(check, line, found, expected, _tolerances(line).gradients)

    def _parameters(self, line: MethodLine, found: Trace, expected: Trace) -> VerifyRow:
        """How far parameters have moved; without those that only rounding moves."""
        check = f"parameters, {len(self.case.batches)} {self.config.run.optimizer} steps"
        moved, distance = self.case.moved(found, expected), self.case.moved(expected, expected)
        return self._row(check, line, moved, distance, _tolerances(line).parameters)

    def _row(
        self,
        check: str,
        line: MethodLine,
        found: Mapping[str, Tensor],
        expected: Mapping[str, Tensor],
        tolerance: float,
    ) -> VerifyRow:
        error, note = worst_of(found, expected)
        return VerifyRow(self.label, check, str(line), error, tolerance, error <= tolerance, note)


def _tolerances(line: MethodLine) -> Tolerances:
    return TOLERANCES.get(line.engine, Tolerances())
