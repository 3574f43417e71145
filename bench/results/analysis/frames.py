"""What the frames of measurements and of trainings have in common: rows of columns, and choosing among them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Self

import pandas as pd

from bench.results.detail import BuiltDetail
from bench.results.identity import AXES, LINE, SETTING, columns_of
from bench.results.schema import LineFields

Row = dict[str, Any]

IDENTITY = (*AXES, *SETTING, *LINE, "label", "exactness", "weights", "log")


class FrameSet:
    """Several views of one run; a dataclass derives from it."""

    def only(self, values: Mapping[str, Any]) -> Self:
        """The rows whose columns hold these values; None matches a missing axis."""

        def matching(frame: pd.DataFrame) -> pd.DataFrame:
            keep = pd.Series(True, index=frame.index)
            for column, value in values.items():
                keep &= frame[column].isna() if value is None else frame[column] == value
            return frame[keep]

        views = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type] # see above
        frames = {name: matching(view) for name, view in views.items() if isinstance(view, pd.DataFrame)}
        return replace(self, **frames)  # type: ignore[type-var]


def frame(rows: Sequence[Row], columns: Sequence[str], text: Iterable[str]) -> pd.DataFrame:
    """Rows as a frame: `text` and identity keep their own types, all else is numbers, NaN where there is none."""
    made = pd.DataFrame([[row.get(column) for column in columns] for row in rows], columns=list(columns), dtype=object)
    kept = {*IDENTITY, *text}
    return made.astype({column: float for column in columns if column not in kept})


def identity_row(result: LineFields, detail: BuiltDetail) -> Row:
    """The columns of IDENTITY; detail: of the record or point."""
    columns = (*SETTING, *LINE, "label", "exactness")
    row: Row = {**columns_of(result.case), **{name: getattr(result, name, None) for name in columns}}
    random = str(result.case.get("encoder")).startswith("shape:")
    drawn = str(result.case.get("workload")).partition(":")[0] in ("synthetic", "shape")
    # as built; by name where it failed before that
    row["weights"] = detail.weights or ("random" if random else "real")
    row["log"] = detail.log or ("synthetic" if drawn else "real")
    return row


def memory(allocated: float | None, process: float | None) -> Row:
    """The sharpest peak that is known, and what it counts."""
    for kind, value in (("allocated", allocated), ("process", process)):
        if value is not None:
            return {"memory_bytes": value, "memory_kind": kind}
    return {}


def with_ends(*names: str) -> tuple[str, ...]:
    """The columns of `with_interval`, of each name."""
    return tuple(f"{name}{end}" for name in names for end in ("", "_low", "_high"))


def with_interval(name: str, value: float, interval: tuple[float | None, float | None] | None) -> Row:
    """A value and its interval's ends as three columns."""
    return dict(zip(with_ends(name), (value, *(interval or (None, None))), strict=True))
