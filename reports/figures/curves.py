"""A quantity against one axis of the sweep, one line per method, small multiples over the other axes.

Points that were not measured are at the upper edge of their panel, in the method's colour.
"""

from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.results.analysis.summary import Frames
from reports import numbers, words
from reports.figures import Plot, _style

COLUMNS, ROWS = 5, 3
AXIS_LABELS = {"batch_size": "Batch size (users)", "text_length": "Text length (tokens)"}
PANEL_WORDS = {"batch_size": "{} users", "text_length": "{} tokens", "asked_repetition_ratio": "ratio {}"}


@dataclass(frozen=True)
class Quantity:
    """A column of the summary frame and how to draw it."""

    column: str
    label: str
    scale: float


TIME = Quantity("median_s", "Time per step (ms)", 1000.0)
MEMORY = Quantity("memory_bytes", "Peak memory (GiB)", 1 / numbers.GIB)


def draw(frames: Frames, quantity: Quantity, x: str) -> Figure | None:
    """`quantity` against `x`; None where fewer than two values of x were measured anywhere."""
    columns = [*AXIS_LABELS, "asked_repetition_ratio", "method", "label", "outcome", quantity.column]
    summary = frames.summary[columns]
    measured = summary[summary[quantity.column].notna()]
    if measured.empty or len(words.order(measured[x])) < 2:
        return None
    other = "text_length" if x == "batch_size" else "batch_size"
    kept_rows = words.order(measured[other])
    kept_columns = words.order(measured["asked_repetition_ratio"])
    shown_rows, shown_columns = _style.spread(kept_rows, ROWS), _style.spread(kept_columns, COLUMNS)
    looks = _style.looks(summary)
    failed = summary[summary["outcome"] != "ok"]
    names = {"batch_size": "batch_sizes", "text_length": "text_lengths"}
    sheet = _style.sheet(
        len(shown_rows),
        len(shown_columns),
        size=_style.panel_size(len(shown_columns)),
        legend=[*_style.handles(looks), *_failure_handles(failed)],
        notes=_style.left_out(
            **{names[other]: (shown_rows, kept_rows)}, repetition_ratios=(shown_columns, kept_columns)
        ),
        x=AXIS_LABELS[x],
        y=quantity.label,
    )
    grid = sheet.axes
    for row, other_value in enumerate(shown_rows):
        for column, ratio in enumerate(shown_columns):
            panel = _style.only(_style.only(summary, other, other_value), "asked_repetition_ratio", ratio)
            ax = grid[row, column]
            _panel(ax, panel, quantity, x, looks)
            ax.set_title(_title({"asked_repetition_ratio": ratio, other: other_value}), loc="left")
    values = quantity.scale * measured[quantity.column]
    grid[0, 0].set_ylim(values.min() / 1.5, values.max() * 2.6)
    _style.quantity_ticks(grid[0, 0])
    _style.value_ticks(grid[0, 0], _style.log_spread(words.order(summary[x]), 6))
    return sheet.figure


def _title(values: dict[str, object]) -> str:
    return ", ".join(
        PANEL_WORDS[name].format(numbers.plain(value)) for name, value in values.items() if numbers.exists(value)
    )


def _panel(ax: Axes, panel: pd.DataFrame, quantity: Quantity, x: str, looks: dict[str, _style.Look]) -> None:
    for place, (label, look) in enumerate(looks.items()):
        line = panel[panel["label"] == label].sort_values(x)
        shown = line[line[quantity.column].notna()]
        ax.plot(shown[x].astype(float), shown[quantity.column] * quantity.scale, **look.line())
        failed = line[line["outcome"] != "ok"]
        if failed.empty:
            continue
        for outcome, marker in (("oom", "x"), ("skipped", "_"), ("timeout", "|"), ("error", "|")):
            points = failed[failed["outcome"] == outcome][x].astype(float)
            if points.empty:
                continue
            height = 0.965 - 0.055 * (place % 6)
            ax.plot(points, [height] * len(points), marker=marker, linestyle="", color=look.color, markersize=5.5,
                    markeredgewidth=1.6, transform=ax.get_xaxis_transform(), clip_on=False)  # fmt: skip


def _failure_handles(failed: pd.DataFrame) -> list[Line2D]:
    kinds = {"x": ("oom",), "_": ("skipped",), "|": ("timeout", "error")}
    entries = []
    for marker, outcomes in kinds.items():
        present = [words.OUTCOMES[outcome] for outcome in outcomes if (failed["outcome"] == outcome).any()]
        if present:
            entries.append(
                Line2D(
                    [],
                    [],
                    color=_style.MUTED,
                    marker=marker,
                    linestyle="",
                    markeredgewidth=1.6,
                    label=" or ".join(present),
                )
            )
    return entries


_AT_THE_EDGE = "Marks at the upper edge are cases without a number."
_OF_TIME = f"Median wall-clock time of one training step; both axes are logarithmic. {_AT_THE_EDGE}"
_OF_MEMORY = (
    "Both axes are logarithmic. On a graphics card the peak of its allocator, on a CPU the process's resident peak. "
    f"{_AT_THE_EDGE}"
)
PLOTS = {
    f"{name}_by_{x}": Plot(
        f"{title} against {x.replace('_', ' ')}", caption, partial(draw, quantity=quantity, x=x), place
    )
    for name, title, caption, quantity, x, place in (
        ("time", "Time per step", _OF_TIME, TIME, "batch_size", 20),
        ("time", "Time per step", _OF_TIME, TIME, "text_length", 21),
        ("memory", "Peak memory", _OF_MEMORY, MEMORY, "batch_size", 30),
        ("memory", "Peak memory", _OF_MEMORY, MEMORY, "text_length", 31),
    )
}
