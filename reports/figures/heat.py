"""Batch size x text length as a grid of numbers, one panel per method and repetition ratio; no number is hatched."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.results.analysis.summary import REFERENCE, Frames
from reports import numbers, words
from reports.figures import Plot, _style

CELLS, RATIOS = 6, 5
"""Values shown per axis of a panel, and panels per row; an evenly spread choice where a sweep has more."""
TITLE_WIDTH = 0.09
"""Inches of a letter of a panel's title, on average and rounded up."""


def _draw(
    summary: pd.DataFrame, column: str, write: Callable[[Mapping[str, Any]], str], colors: Colormap, norm: Normalize
) -> Figure | None:
    """`summary[column]` for every label in it; None where batch size or text length has but one value."""
    all_batches, all_texts = words.order(summary["batch_size"]), words.order(summary["text_length"])
    if summary[column].notna().sum() == 0 or min(len(all_batches), len(all_texts)) < 2:
        return None
    batches, texts = _style.spread(all_batches, CELLS), _style.spread(all_texts, CELLS)
    all_ratios = words.order(summary[summary[column].notna()]["asked_repetition_ratio"])
    ratios = _style.spread(all_ratios, RATIOS)
    labels = list(dict.fromkeys(summary["label"]))
    titles = {(label, place): _title(label, ratios, place) for label in labels for place in range(len(ratios))}
    width = max(1.5, 0.58 * len(batches))
    if len(ratios) > 1:  # a title has a neighbour
        width = max(width, TITLE_WIDTH * max(map(len, titles.values())))
    sheet = _style.sheet(
        len(labels),
        len(ratios),
        size=(width, max(0.5, 0.36 * len(texts))),
        notes=_style.left_out(
            batch_sizes=(batches, all_batches), text_lengths=(texts, all_texts), repetition_ratios=(ratios, all_ratios)
        ),
        left=0.62,
        x="Batch size (users)",
        y="Text (tokens)",
    )
    grid = sheet.axes
    cells = {_place(row): row for row in summary.to_dict("records")}
    for row, label in enumerate(labels):
        for place, ratio in enumerate(ratios):
            ax = grid[row, place]
            ax.set_title(titles[label, place], loc="left")
            shown = {
                (x, y): cells[label, ratio, batch, text]
                for y, text in enumerate(texts)
                for x, batch in enumerate(batches)
                if (label, ratio, batch, text) in cells
            }
            _panel(ax, shown, column, write, colors, norm)
    _frame(grid, batches, texts)
    return sheet.figure


def _title(label: str, ratios: list, place: int) -> str:
    """The ratio, in the first column behind the label."""
    ratio = "" if ratios[place] is None else f"ratio {numbers.plain(ratios[place])}"
    return ", ".join(filter(None, (label, ratio))) if place == 0 else ratio


def _place(row: dict) -> tuple:
    ratio = row["asked_repetition_ratio"]
    return row["label"], ratio if numbers.exists(ratio) else None, row["batch_size"], row["text_length"]


def _frame(grid: np.ndarray, batches: list, texts: list) -> None:
    first = grid[0, 0]
    first.set_xlim(-0.5, len(batches) - 0.5)
    first.set_ylim(-0.5, len(texts) - 0.5)
    first.set_xticks(range(len(batches)), [numbers.plain(batch) for batch in batches])
    first.set_yticks(range(len(texts)), [numbers.plain(text) for text in texts])
    for ax in grid.flat:
        ax.tick_params(length=0)
        ax.grid(False)
        ax.spines[:].set_visible(False)


def _panel(
    ax: Axes,
    cells: dict[tuple[int, int], dict],
    column: str,
    write: Callable[[Mapping[str, Any]], str],
    colors: Colormap,
    norm: Normalize,
) -> None:
    measured = {place: row[column] for place, row in cells.items() if numbers.exists(row[column])}
    fills = [colors(norm(value)) for value in measured.values()]
    ax.add_collection(
        PatchCollection([_box(place) for place in measured], facecolors=fills, linewidth=0), autolim=False
    )
    for (x, y), fill in zip(measured, fills, strict=True):
        light = np.dot(fill[:3], (0.299, 0.587, 0.114)) > 0.55
        color = _style.INK if light else "white"
        ax.text(x, y, write(cells[x, y]), ha="center", va="center", fontsize=8, color=color)
    for (x, y), row in cells.items():
        if (x, y) not in measured:
            text, hatch = _missing(row)
            ax.add_artist(_box((x, y), facecolor="#f4f3ef", edgecolor="#c9c5ba", hatch=hatch, linewidth=0))
            box = {"facecolor": "#f4f3ef", "edgecolor": "none", "pad": 1.2}
            ax.text(x, y, text, ha="center", va="center", fontsize=7, color=_style.INK, bbox=box)


def _box(place: tuple[int, int], **look: Any) -> Rectangle:
    return Rectangle((place[0] - 0.48, place[1] - 0.47), 0.96, 0.94, **look)


def _missing(row: dict) -> tuple[str, str]:
    """What is in a cell without a number, and its hatching."""
    if row["outcome"] != "ok":
        return words.SHORT_OUTCOMES[row["outcome"]], "////" if row["outcome"] == "oom" else "...."
    if row["reference_outcome"] != "ok":
        return f"{REFERENCE}\n{words.SHORT_OUTCOMES[row['reference_outcome']]}", "\\\\\\\\"
    return numbers.MISSING, "...."


def draw_speed_ups(frames: Frames) -> Figure | None:
    """Every method but e2e; colours are symmetric around 1×."""
    summary = frames.summary[frames.summary["method"] != REFERENCE]
    known = summary["speed_up"].dropna()
    if known.empty:
        return None
    reach = max(2.0, *(max(value, 1 / value) for value in known))
    reach = 2.0 ** math.ceil(math.log2(reach))
    colors = LinearSegmentedColormap.from_list(
        "slower-faster", [(0, "#d55e00"), (0.5, "#faf9f6"), (0.75, "#8fc4e3"), (1, "#00588a")]
    )
    return _draw(summary, "speed_up", numbers.speed_up, colors, LogNorm(1 / reach, reach))


def draw_memory(frames: Frames) -> Figure | None:
    """Every method, e2e included."""
    known = frames.summary["memory_bytes"].dropna()
    if known.empty:
        return None
    colors = LinearSegmentedColormap.from_list("memory", ["#f6f3fa", "#c9b8dd", "#7d5ba6", "#3b1f5b"])
    norm = LogNorm(known.min() / 1.2, known.max() * 1.2)
    return _draw(
        frames.summary, "memory_bytes", lambda row: numbers.number(row["memory_bytes"] / numbers.GIB), colors, norm
    )


PLOTS = {
    "heat_speed_up": Plot(
        "Speed-up over batch size and text length",
        "Time of e2e / time of the method, same case. Blue is faster, orange slower, white equal. Hatched cells have "
        "no number: the method itself or, where e2e is named, the reference was not measured.",
        draw_speed_ups,
        40,
    ),
    "heat_memory": Plot(
        "Peak memory over batch size and text length",
        "Peak memory in GiB; darker is more. Hatched cells have no number, OOM where the device ran out of memory.",
        draw_memory,
        41,
    ),
}
