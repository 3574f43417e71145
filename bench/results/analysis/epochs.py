"""What an epoch would take: measured steps, times the steps that an epoch has. A projection, and called one.

An interval of Multi-step GRAM as long as an epoch is not waited for. An interval of N steps that touches u items takes
N * cf + u * ce: a step that encodes nothing was timed by itself, and a shorter interval then tells what an item costs
that the encoder passes over. A longer one is assumed to touch every item of the catalogue, which is never to its
advantage. Loads without torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from bench.results.analysis import stats
from bench.results.analysis.stats import REFERENCE
from bench.results.identity import AXES, Line, Setting
from bench.results.schema import Exactness, Record

MULTI_STEP = "multi_step"
SHARES = {"0.5E": 0.5, "1E": 1.0}
"""Intervals of Multi-step GRAM that the paper trains with, in parts of an epoch."""

Basis = Literal["steps", "model"]


@dataclass(frozen=True)
class Epoch:
    """One line's epoch of the whole log.

    record: one of the line's, for its case and setting. steps: of the epoch. basis: the line's own steps, or the two
    costs above. of_batch: e2e's batch size where e2e has no time in this case and another case of the setting lends its
    own; None where the reference is the case's.
    """

    record: Record
    label: str
    method: str
    exactness: Exactness
    seconds: float
    steps: float
    basis: Basis
    item_repetition_ratio: float | None
    reference_s: float | None
    of_batch: int | None = None

    @property
    def scatter(self) -> float | None:
        """What the windows of one process leave open of its time, relative."""
        return stats.scatter(self.record.samples_s)

    @property
    def speed_up(self) -> float | None:
        """e2e's epoch over this one; None where nothing tells e2e's."""
        return None if self.reference_s is None else self.reference_s / self.seconds


def epochs(records: Iterable[Record]) -> tuple[Epoch, ...]:
    """Every measured line whose log has epochs, case by case, and Multi-step GRAM at shares of one."""
    cases: dict[Setting, dict[Line, list[Record]]] = {}
    for record in records:
        if record.outcome == "ok" and record.replica == 0 and record.steps_per_epoch and record.samples_s:
            lines = cases.setdefault(record.line.setting, {})
            lines.setdefault(record.line, []).append(record)
    references = {case: _reference(case, lines) for case, lines in cases.items()}
    found: list[Epoch] = []
    for case, lines in cases.items():
        own = references[case]
        reference, batch = own, None
        if reference is None:
            reference, batch = _lent(case, references)
        found += [_measured(line, reference, batch) for line in lines.values()]
        found += _modelled([line for line in lines.values() if line[0].method == MULTI_STEP], reference, batch)
    return tuple(found)


def _step_s(line: Sequence[Record]) -> float:
    return median(median(record.samples_s) for record in line)


def epoch_steps(record: Record) -> float:
    """Steps of an epoch of the whole log: a log built at a smaller scale has that part of its users, hence of steps."""
    return (record.steps_per_epoch or 0) / _workload(record).get("scale", 1.0)


def _workload(record: Record) -> dict[str, Any]:
    facts = record.detail.workload
    return facts if isinstance(facts, dict) else {}


def _reference(setting: Setting, lines: dict[Line, list[Record]]) -> float | None:
    line = lines.get(Line(setting, REFERENCE))
    return None if line is None else _step_s(line) * epoch_steps(line[0])


def _lent(setting: Setting, references: dict[Setting, float | None]) -> tuple[float | None, int | None]:
    """e2e's shortest epoch at any batch size of the setting, and that batch size."""
    place = AXES.index("batch_size")
    found = [
        (seconds, int(other.case[place] or 0))
        for other, seconds in references.items()
        if seconds is not None and other.but(batch_size=None) == setting.but(batch_size=None)
    ]
    return min(found, default=(None, None))


def _measured(line: Sequence[Record], reference: float | None, batch: int | None) -> Epoch:
    first = line[0]
    steps = epoch_steps(first)
    return Epoch(
        record=first,
        label=first.label,
        method=first.method,
        exactness=first.exactness,
        seconds=_step_s(line) * steps,
        steps=steps,
        basis="steps",
        item_repetition_ratio=stats.middle(record.item_repetition_ratio for record in line),
        reference_s=reference,
        of_batch=batch,
    )


def _modelled(lines: Sequence[Sequence[Record]], reference: float | None, batch: int | None) -> list[Epoch]:
    costs = _costs(lines)
    if costs is None:
        return []
    first = lines[0][0]
    cf_s, item_s = costs
    steps, items = epoch_steps(first), float(_workload(first)["items"])
    measured = {line[0].accumulation_steps for line in lines}
    return [
        Epoch(
            record=first,
            label=f"{MULTI_STEP} N={name}",
            method=MULTI_STEP,
            exactness=first.exactness,
            seconds=steps * cf_s + items * item_s / share,
            steps=steps,
            basis="model",
            item_repetition_ratio=first.item_repetition_ratio,
            reference_s=reference,
            of_batch=batch,
        )
        for name, share in SHARES.items()
        if name not in measured
    ]


def _costs(lines: Sequence[Sequence[Record]]) -> tuple[float, float] | None:
    """Seconds of a CF step and per item that the encoder passes over; None where no line tells both."""
    steps_s = [record.cf_step_s for line in lines for record in line if record.cf_step_s]
    if not steps_s or not isinstance(_workload(lines[0][0]).get("items"), int | float):
        return None
    cf_s = median(steps_s)
    items_s = []
    for line in lines:
        interval = line[0].accumulation_steps
        items = median(record.interval_unique_items or 0.0 for record in line)
        if isinstance(interval, int) and items:
            items_s.append(interval * (_step_s(line) - cf_s) / items)
    return (cf_s, median(items_s)) if items_s and median(items_s) > 0 else None
