"""The sweep as a list of work: cases x method lines x blocks, in the order they are measured."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict, dataclass

from bench.results.schema import AxisValue, Record


@dataclass(frozen=True)
class Case:
    """One point of the sweep: what every method is given alike.

    layers: the encoder's first so many layers, None for all of them; history_length, text_length: per user and
    per item; item_repetition_ratio: as asked for, None where the workload's own log decides.
    """

    workload: str
    encoder: str
    layers: int | None
    batch_size: int
    history_length: int
    text_length: int
    item_repetition_ratio: float | None
    precision: str

    def axes(self) -> dict[str, AxisValue]:
        """What a `Record` stores as its `case`."""
        return asdict(self)

    def __str__(self) -> str:
        depth = "" if self.layers is None else f" layers={self.layers}"
        ratio = "" if self.item_repetition_ratio is None else f" ratio={self.item_repetition_ratio:g}"
        return (
            f"{self.workload} {self.encoder}{depth} batch={self.batch_size} history={self.history_length} "
            f"text={self.text_length}{ratio} {self.precision}"
        )


@dataclass(frozen=True)
class MethodLine:
    """One line of a case's comparison. accumulation_steps is None where the method has no such setting."""

    method: str
    engine: str
    accumulation_steps: int | str | None = None

    def __str__(self) -> str:
        label = self.method if self.accumulation_steps is None else f"{self.method} N={self.accumulation_steps}"
        return f"{label} ({self.engine})"


@dataclass(frozen=True)
class WorkItem:
    """What one worker process measures."""

    case: Case
    line: MethodLine
    block: int = 0

    @property
    def key(self) -> Hashable:
        """Identity of the measurement, equal to `key_of` of the record that comes of it."""
        return _key(self.case.axes(), self.line.method, self.line.engine, self.line.accumulation_steps, self.block)

    def __str__(self) -> str:
        block = f" block {self.block}" if self.block else ""
        return f"{self.case} · {self.line}{block}"


def key_of(record: Record) -> Hashable:
    """Identity of a recorded measurement: what `resume` compares with `WorkItem.key`."""
    return _key(record.case, record.method, record.engine, record.accumulation_steps, record.block)


def _key(
    axes: dict[str, AxisValue], method: str, engine: str, accumulation_steps: int | str | None, block: int
) -> Hashable:
    return tuple(sorted(axes.items())), method, engine, accumulation_steps, block
