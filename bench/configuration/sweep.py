"""The sweep as a list of work: cases x method lines x blocks, in the order they are measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.configuration import method_settings
from bench.configuration.case import Case
from bench.configuration.values import absolute_encoder
from bench.errors import ConfigError
from bench.inputs.item_kinds import has_pictures, picture_of
from bench.results.identity import key, label
from bench.workloads import _base as workloads

if TYPE_CHECKING:
    from bench.configuration.config import Config, SweepAxes

REFERENCE_METHOD = "e2e"
"""What the others are compared with, and the canary with it."""


@dataclass(frozen=True)
class MethodLine:
    """One line of a case's comparison. accumulation_steps is None where the method has no such setting."""

    method: str
    engine: str
    accumulation_steps: int | str | None = None

    def __str__(self) -> str:
        return f"{label(self.method, self.accumulation_steps)} ({self.engine})"


@dataclass(frozen=True)
class WorkItem:
    """What one worker process measures. replica: 1 for the canary, a second process of the same line."""

    case: Case
    line: MethodLine
    block: int = 0
    replica: int = 0

    @property
    def key(self) -> Hashable:
        """Identity of the measurement, equal to that of the record that comes of it."""
        return key(self.case.axes(), self.line, self.block, self.replica)

    def __str__(self) -> str:
        block = f" block {self.block}" if self.block else ""
        canary = " canary" if self.replica else ""
        return f"{self.case} · {self.line}{canary}{block}"


def plan(config: Config) -> tuple[WorkItem, ...]:
    """Everything the configuration asks for, once, in the order it is to be measured.

    Case by case, real logs first and small cases before larger ones, so that an out-of-memory is met at the smallest
    case that has it; within a case block by block, as many as there are at least; within a block the lines in the
    configuration's order, and then the canary: the first e2e again, as replica 1.
    """
    lines: dict[Case, dict[MethodLine, None]] = {}
    for part in config.sweep.parts():
        for case in cases(part):
            lines.setdefault(case, {}).update(dict.fromkeys(method_lines(part, config.run.plugins)))
    order = sorted(lines, key=_order(tuple(lines)))
    return tuple(
        WorkItem(case, line, block, replica)
        for case in order
        for block in range(config.run.blocks)
        for line, replica in [*((line, 0) for line in lines[case]), *_canary(config, lines[case])]
    )


def _canary(config: Config, lines: Iterable[MethodLine]) -> list[tuple[MethodLine, int]]:
    first = next((line for line in lines if line.method == REFERENCE_METHOD), None)
    return [(first, 1)] if config.run.canary and first is not None else []


def cases(part: SweepAxes) -> tuple[Case, ...]:
    """The product of a part's axes; a workload with a log of its own is not multiplied by the asked-for ratios, nor
    one of pictures by text lengths: each item has as many tokens there as its encoder makes of a picture."""
    found: dict[Case, None] = {}
    for workload in part.workload:
        ratios = part.item_repetition_ratio if takes_ratio(workload) else (None,)
        sizes = (part.layers, part.batch_size, part.history_length, part.text_length, ratios)
        models = tuple(itertools.product(part.encoder, part.adapter))
        axes = (part.cf_module, models, *sizes, part.precision, _together(part))
        for cf_module, model, layers, batch, history, text, ratio, precision, together in itertools.product(*axes):
            (encoder, adapter), depth = model, layers if isinstance(layers, int) else None
            if has_pictures(workload) and (picture := picture_of(encoder)) is not None:
                text = picture.tokens
            asked = (batch, history, text, ratio, precision, cf_module, *together)
            found[Case(workload, encoder, depth, *asked, adapter)] = None
    return tuple(found)


def _together(part: SweepAxes) -> tuple[tuple[int, str], ...]:
    """World sizes, each with every way to deduplicate; a single process has one way."""
    pairs = [(size, way if size > 1 else "local") for size in part.world_size for way in part.deduplicate]
    return tuple(dict.fromkeys(pairs))


def method_lines(part: SweepAxes, plugins: Sequence[str] = ()) -> tuple[MethodLine, ...]:
    """What each case of a part compares; `accumulation_steps` multiplies the methods that have it."""
    lines = [
        MethodLine(method, engine, steps)
        for engine in part.engine
        for method in part.method
        for steps in method_settings.accumulation_steps(method, part.accumulation_steps, plugins)
    ]
    return tuple(dict.fromkeys(lines))


def takes_ratio(workload: str) -> bool:
    """Whether the workload realises an asked-for item repetition ratio; a real log has its own."""
    return bool(workloads.load(workload).TAKES_REPETITION_RATIO)


def _order(found: tuple[Case, ...]) -> Callable[[Case], tuple[float, ...]]:
    """Sort key: names keep the order they were found in, sizes ascend.

    At equal slots a higher ratio has fewer unique items, hence is the smaller case.
    """
    rank = {name: place for place, name in reversed(list(enumerate(_names(found))))}

    def key(case: Case) -> tuple[float, ...]:
        ratio = case.item_repetition_ratio
        return (
            ratio is not None,
            rank[case.workload],
            rank[case.cf_module],
            rank[case.encoder],
            rank[case.adapter],
            math.inf if case.layers is None else case.layers,
            rank[case.precision],
            case.batch_size * case.history_length * case.text_length,
            case.batch_size,
            -(ratio or 0),
            case.world_size,
            ("local", "global", "auto").index(case.deduplicate),
        )

    return key


def _names(found: tuple[Case, ...]) -> list[str]:
    return [
        name for case in found for name in (case.workload, case.cf_module, case.encoder, case.adapter, case.precision)
    ]


def shard_of(items: Sequence[WorkItem], shard: str | None) -> tuple[WorkItem, ...]:
    """The measurements of shard "i/n": whole cases, every n-th from the i-th on; all of them for None.

    Cases ascend in size, so that shards are about equally long. Raises ConfigError.
    """
    if shard is None:
        return tuple(items)
    number, _, count = shard.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--shard {shard}: expected i/n with i from 1 to n, 2/4 for the second of four shards.")
    cases = list(dict.fromkeys(item.case for item in items))
    chosen = set(cases[int(number) - 1 :: int(count)])
    if not chosen:
        raise ConfigError(f"--shard {shard}: the sweep has {len(cases)} cases, so this shard has none; use fewer.")
    return tuple(item for item in items if item.case in chosen)


def lines_of_case(items: Sequence[WorkItem], asked: str | None) -> tuple[WorkItem, ...]:
    """The lines of one case, in its first block; the canary's second line is left out.

    asked: the case's number, from 1, in the order of `items`; or axes like "batch_size=32,text_length=64" that only
    one case has; None is the first case. Raises ConfigError.
    """
    cases = list(dict.fromkeys(item.case for item in items))
    if asked is None:
        found = cases[:1]
    elif asked.isdigit():
        found = cases[int(asked) - 1 : int(asked)] if int(asked) else []
    else:
        axes = dict(part.partition("=")[::2] for part in asked.split(","))
        found = [case for case in cases if all(_has(case, axis.strip(), value.strip()) for axis, value in axes.items())]
    if len(found) != 1:
        raise ConfigError(
            f"--case {asked}: {len(found) or 'none'} of the {len(cases)} cases match; give a number of run --dry-run, "
            f"or more axes of {', '.join(cases[0].axes())}."
        )
    return tuple(item for item in items if item.case == found[0] and item.block == 0 and not item.replica)


def _has(case: Case, axis: str, value: str) -> bool:
    if axis not in case.axes():
        raise ConfigError(f"--case: {axis} is none of {', '.join(case.axes())}.")
    held = case.axes()[axis]
    value = absolute_encoder(value) if axis == "encoder" else value
    try:
        return float(value) == held if isinstance(held, int | float) else value == str(held)
    except ValueError:
        return False
