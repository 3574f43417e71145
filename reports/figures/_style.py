"""One look for all figures: Okabe-Ito colours, one marker per method, quiet axes, panels that share a legend."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports import numbers

DPI = 160
INK, MUTED, GRID, PAPER = "#1f2430", "#667085", "#e6e4df", "#ffffff"
RC: dict[str, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titley": 1.0,  # a fixed place spares a measuring pass over every axis
    "axes.labelsize": 9,
    "axes.edgecolor": "#b8b5ad",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "hatch.linewidth": 0.7,
    "svg.hashsalt": "gram-bench",
}
_KNOWN = {
    "e2e": ("#8d939e", "o", 3.4),
    "e2e_unique": ("#56b4e9", "s", 2.5),
    "single_step": ("#00527f", "^", 1.3),
    "multi_step": ("#d55e00", "D", 1.3),
}
"""Colour, marker, line width: what often coincides is nested, the wider line below."""
_FURTHER = (
    ("#009e73", "v", 1.5),
    ("#cc79a7", "P", 1.5),
    ("#e69f00", "X", 1.5),
    ("#8a6d00", "<", 1.5),
    ("#7f4fc9", ">", 1.5),
    ("#b3123b", "p", 1.5),
    ("#4c9a2a", "h", 1.5),
    ("#1f2430", "*", 1.5),
    ("#a8574a", "d", 1.5),
    ("#2a9fd6", "H", 1.5),
)


@dataclass(frozen=True)
class Look:
    """How one method's line is drawn."""

    color: tuple[float, float, float]
    marker: str
    width: float

    def line(self) -> dict[str, Any]:
        """Keywords of `Axes.plot`."""
        return {
            "color": self.color, "marker": self.marker, "linewidth": self.width, "markersize": 3.6 + 0.9 * self.width,
            "markeredgecolor": "white", "markeredgewidth": 0.6,
        }  # fmt: skip


def looks(summary: pd.DataFrame) -> dict[str, Look]:
    """Label -> look. A method keeps its hue; its further labels (other accumulation steps) are lighter."""
    result: dict[str, Look] = {}
    unknown = sorted(set(summary["method"]) - set(_KNOWN))
    for method, rows in summary.groupby("method", sort=False):
        color, marker, width = _KNOWN.get(method) or _FURTHER[unknown.index(method) % len(_FURTHER)]
        labels = list(dict.fromkeys(rows["label"]))
        for place, label in enumerate(labels):
            white = 0.65 * place / len(labels)
            red, green, blue = (part + (1 - part) * white for part in to_rgb(color))
            result[label] = Look((red, green, blue), marker, width)
    return {label: result[label] for label in dict.fromkeys(summary["label"])}


def spread(values: Sequence[Any], limit: int) -> list[Any]:
    """All values where `limit` holds them; else a choice of one fewer, evenly spread, both ends among them."""
    if len(values) <= limit:
        return list(values)
    places = np.unique(np.linspace(0, len(values) - 1, max(2, limit - 1)).round().astype(int))
    return [values[place] for place in places]


def log_spread(values: Sequence[float], limit: int) -> list[float]:
    """At most about `limit` of the values, the first and then each at least a step further on a log axis."""
    if not values:
        return []
    step = (math.log(values[-1] / values[0]) / limit) if len(values) > limit else 0.0
    kept = [values[0]]
    for value in values[1:]:
        if math.log(value / kept[-1]) >= step:
            kept.append(value)
    return kept


TITLE_LINE = 0.17
"""Inches."""


@dataclass(frozen=True)
class Sheet:
    """A figure and its axes; margins are reckoned in inches up front, which is far faster than a layout engine."""

    figure: Figure
    axes: np.ndarray


def sheet(
    rows: int,
    columns: int,
    *,
    size: tuple[float, float],
    legend: Sequence[Line2D] = (),
    notes: Sequence[str] = (),
    left: float = 0.75,
    titled: bool = True,
    title_lines: int = 1,
    gap: tuple[float, float] = (0.22, 0.42),
    x: str = "",
    y: str = "",
    sharex: bool = True,
    sharey: bool | Literal["row"] = True,
) -> Sheet:
    """rows x columns axes of `size` inches each, a legend above all of them and what is left out below, small.

    title_lines: of each panel's title; `gap` is what a title of one line needs. x, y: what axes at the edge are called.
    """
    more = (title_lines - 1) * TITLE_LINE
    gap = (gap[0], gap[1] + more)
    across = left + columns * size[0] + (columns - 1) * gap[0] + 0.18
    fitting = _fitting([str(entry.get_label()) for entry in legend], across)
    legend_height = 0.21 * math.ceil(len(legend) / fitting) + 0.12 if legend else 0.05
    top, bottom = legend_height + (0.3 + more if titled else 0.08), 0.55 + (0.22 if notes else 0.0)
    height = top + rows * size[1] + (rows - 1) * gap[1] + bottom
    figure = Figure(figsize=(across, height))
    spaces = {
        "left": left / across, "right": 1 - 0.18 / across, "top": 1 - top / height, "bottom": bottom / height,
        "wspace": gap[0] / size[0], "hspace": gap[1] / size[1],
    }  # fmt: skip
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=spaces, sharex=sharex, sharey=sharey)
    for ax in axes[-1]:
        ax.set_xlabel(x)
    for ax in axes[:, 0]:
        ax.set_ylabel(y)
    if legend:
        figure.legend(handles=list(legend), loc="upper left", bbox_to_anchor=(0.12 / across, 1 - 0.04 / height),
                      ncols=fitting, handlelength=2.4, borderaxespad=0, columnspacing=1.4)  # fmt: skip
    if notes:
        figure.text(0.14 / across, 0.08 / height, " ".join(notes), fontsize=7.5, color=MUTED, va="bottom")
    return Sheet(figure, axes)


def _fitting(labels: Sequence[str], across: float) -> int:
    """How many legend columns fit into a width in inches."""
    for columns in range(len(labels), 1, -1):
        rows, longer = divmod(len(labels), columns)
        ends = [rows * (column + 1) + min(column + 1, longer) for column in range(columns)]
        widest = [max(map(len, labels[first:end])) for first, end in zip([0, *ends], ends, strict=False)]
        if sum(0.62 + 0.072 * width for width in widest) < across:
            return columns
    return 1


def png(figure: Figure) -> bytes:
    """The picture."""
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=DPI)
    return made.getvalue()


def panel_size(columns: int, height: float = 1.75) -> tuple[float, float]:
    """Inches of one panel: a single one is drawn wider."""
    return {1: 4.6, 2: 3.2}.get(columns, 2.15), height * (1.35 if columns == 1 else 1.0)


def left_out(**axes: tuple[Sequence[Any], Sequence[Any]]) -> list[str]:
    """One sentence per axis (shown, all) of which a figure shows a choice only."""
    return [
        f"Shown: {len(shown)} of {len(everything)} {name.replace('_', ' ')}."
        for name, (shown, everything) in axes.items()
        if len(shown) < len(everything)
    ]


def only(summary: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    """The rows with this axis value; None matches a missing one."""
    return summary[summary[column].isna() if value is None else summary[column] == value]


def handles(chosen: dict[str, Look]) -> list[Line2D]:
    """Legend entries of the methods."""
    return [Line2D([], [], label=label, **look.line()) for label, look in chosen.items()]


def value_ticks(ax: Axes, values: Sequence[float], axis: str = "x") -> None:
    """A log2 axis whose ticks are the values that were measured."""
    if axis == "x":
        ax.set_xscale("log", base=2)
    else:
        ax.set_yscale("log", base=2)
    side = ax.xaxis if axis == "x" else ax.yaxis
    side.set_major_locator(FixedLocator(list(values)))
    side.set_minor_locator(NullLocator())
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def times_ticks(ax: Axes, low: float, high: float) -> None:
    """A log2 axis of speed-ups with ticks at powers of two (1×, 2×, 4×)."""
    first, last = int(np.floor(np.log2(low))), int(np.ceil(np.log2(high)))
    step = max(1, (last - first) // 6)
    ticks = [2.0**power for power in range(first, last + 1, step)]
    value_ticks(ax, ticks, "y")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{numbers.TIMES}"))


def quantity_ticks(ax: Axes) -> None:
    """A log axis of plain numbers, 1-2-5 ticks, no powers of ten."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    powers = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
    mantissas = (1, 2, 5) if high / low < 300 else (1,)
    ax.yaxis.set_major_locator(FixedLocator([factor * 10.0**power for power in powers for factor in mantissas]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_ylim(low, high)
