"""Which line a result belongs to: one identity for records, points of trainings, lines of runs and rows of tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

AxisValue = str | int | float | None

ASKED_RATIO: Final = "asked_repetition_ratio"
"""The axis item_repetition_ratio as a column, so that the plain name is the realised ratio."""
AXES: Final = (
    "workload",
    "encoder",
    "layers",
    "batch_size",
    "history_length",
    "text_length",
    ASKED_RATIO,
    "precision",
    "cf_module",
    "world_size",
    "deduplicate",
    "adapter",
)
"""A case's axes as columns."""
SETTING: Final = ("engine", "dropout", "padding", "optimizer")
"""What two rows must share, next to the axes, before they are compared."""
LINE: Final = ("method", "accumulation_steps")


@dataclass(frozen=True)
class Setting:
    """What lines are compared within: a case, by its values of AXES, and how all its lines were run."""

    case: tuple[AxisValue, ...]
    engine: str
    dropout: str
    padding: str
    optimizer: str

    def but(self, **changes: AxisValue) -> Setting:
        """The same with other values of axes or of columns."""
        case = tuple(changes.pop(axis, value) for axis, value in zip(AXES, self.case, strict=True))
        return replace(self, case=case, **changes)  # type: ignore[arg-type] # the columns are strings


@dataclass(frozen=True)
class Line:
    """A method with its accumulation steps, within a setting."""

    setting: Setting
    method: str
    accumulation_steps: int | str | None = None


def columns_of(case: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    """A case's axes as columns."""
    return {axis: case.get("item_repetition_ratio" if axis == ASKED_RATIO else axis) for axis in AXES}


def line_of(row: Mapping[str, Any]) -> Line:
    """The line that a row with the columns AXES, SETTING and LINE belongs to."""
    case = tuple(None if row[axis] != row[axis] else row[axis] for axis in AXES)  # pandas writes None as NaN
    return Line(Setting(case, *(row[name] for name in SETTING)), *(row[name] for name in LINE))


def label(method: str, accumulation_steps: int | str | None) -> str:
    """The method as a reader sees it: `multi_step N=16`, say."""
    return method if accumulation_steps is None else f"{method} N={accumulation_steps}"


def key(case: Mapping[str, AxisValue], line: Any, *which: int) -> Hashable:
    """Identity of one measurement or training in a run, of its plan as of its records.

    line: whatever has a method, an engine and accumulation steps. which: block and replica, or the seed.
    """
    return tuple(sorted(case.items())), line.method, line.engine, line.accumulation_steps, *which


def case_title(case: Mapping[str, Any]) -> str:
    """A case in one line, as it is typed."""
    absent = {"layers": None, "item_repetition_ratio": None, "adapter": "none"}
    if case.get("world_size", 1) == 1:
        absent |= {"world_size": case.get("world_size"), "deduplicate": case.get("deduplicate")}
    words = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" if name else str(value)
        for axis, name in _TITLE
        if (value := case.get(axis)) != absent.get(axis)
    ]
    return " ".join(words)


_TITLE: Final = (
    ("workload", ""),
    ("encoder", ""),
    ("layers", "layers"),
    ("adapter", "adapter"),
    ("batch_size", "batch"),
    ("history_length", "history"),
    ("text_length", "text"),
    ("item_repetition_ratio", "ratio"),
    ("cf_module", ""),
    ("precision", ""),
    ("world_size", "ranks"),
    ("deduplicate", "deduplicate"),
)
"""Axes in the order of a title, and what each is called in it."""
