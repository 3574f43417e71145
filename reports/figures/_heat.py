"""Batch size x text length as a grid of numbers, one panel per method and repetition ratio; no number is hatched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.results.summary import REFERENCE
from reports import words
from reports.figures import _style

CELLS, RATIOS = 8, 5
"""Values shown per axis of a panel, and panels per row; an evenly spread choice where a sweep has more."""


def draw(
    summary: pd.DataFrame, column: str, write: Callable[[float], str], colors: Colormap, norm: Normalize
) -> Figure | None:
    """`summary[column]` for every label in it; None where batch size or text length has but one value."""
    all_batches, all_texts = words.order(summary["batch_size"]), words.order(summary["text_length"])
    if summary[column].notna().sum() == 0 or min(len(all_batches), len(all_texts)) < 2:
        return None
    batches, texts = _style.spread(all_batches, CELLS), _style.spread(all_texts, CELLS)
    all_ratios = words.order(summary[summary[column].notna()]["asked_repetition_ratio"])
    ratios = _style.spread(all_ratios, RATIOS)
    labels = list(dict.fromkeys(summary["label"]))
    sheet = _style.sheet(
        len(labels),
        len(ratios),
        size=(max(1.5, 0.58 * len(batches)), max(0.5, 0.36 * len(texts))),
        notes=_style.left_out(
            batch_sizes=(batches, all_batches), text_lengths=(texts, all_texts), repetition_ratios=(ratios, all_ratios)
        ),
        left=0.62,
        sharex=True,
        sharey=True,
    )
    grid = sheet.axes
    cells = {_place(row): row for row in summary.to_dict("records")}
    for row, label in enumerate(labels):
        for place, ratio in enumerate(ratios):
            ax = grid[row, place]
            _frame(ax, batches, texts)
            title = label if ratio is None else f"{label}, ratio {words.plain(ratio)}"
            ax.set_title(title if place == 0 or ratio is None else f"ratio {words.plain(ratio)}", loc="left")
            for y, text in enumerate(texts):
                for x, batch in enumerate(batches):
                    _cell(ax, x, y, cells.get((label, ratio, batch, text)), column, write, colors, norm)
            if row == len(labels) - 1:
                ax.set_xlabel("Batch size (users)")
            if place == 0:
                ax.set_ylabel("Text (tokens)")
    return sheet.figure


def _place(row: dict) -> tuple:
    ratio = row["asked_repetition_ratio"]
    return row["label"], ratio if words.exists(ratio) else None, row["batch_size"], row["text_length"]


def _frame(ax: Axes, batches: list, texts: list) -> None:
    ax.set_xlim(-0.5, len(batches) - 0.5)
    ax.set_ylim(-0.5, len(texts) - 0.5)
    ax.set_xticks(range(len(batches)), [words.plain(batch) for batch in batches])
    ax.set_yticks(range(len(texts)), [words.plain(text) for text in texts])
    ax.tick_params(length=0)
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)


def _cell(
    ax: Axes,
    x: int,
    y: int,
    row: dict | None,
    column: str,
    write: Callable[[float], str],
    colors: Colormap,
    norm: Normalize,
) -> None:
    corner = (x - 0.48, y - 0.47)
    if row is None:
        return
    value = row[column]
    if words.exists(value):
        color = colors(norm(value))
        light = np.dot(color[:3], (0.299, 0.587, 0.114)) > 0.55
        ax.add_patch(Rectangle(corner, 0.96, 0.94, facecolor=color, linewidth=0))
        ax.text(x, y, write(value), ha="center", va="center", fontsize=8, color=_style.INK if light else "white")
        return
    text, hatch = _missing(row)
    ax.add_patch(Rectangle(corner, 0.96, 0.94, facecolor="#f4f3ef", edgecolor="#c9c5ba", hatch=hatch, linewidth=0))
    box = {"facecolor": "#f4f3ef", "edgecolor": "none", "pad": 1.2}
    ax.text(x, y, text, ha="center", va="center", fontsize=7, color=_style.INK, bbox=box)


def _missing(row: dict) -> tuple[str, str]:
    """What stands in a cell without a number, and its hatching."""
    if row["outcome"] != "ok":
        return words.SHORT_OUTCOMES[row["outcome"]], "////" if row["outcome"] == "oom" else "...."
    if row["reference_outcome"] != "ok":
        return f"{REFERENCE}\n{words.SHORT_OUTCOMES[row['reference_outcome']]}", "\\\\\\\\"
    return words.MISSING, "...."
