"""Speed-up against the realised repetition ratio, and the ideal line."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.results.analysis.summary import REFERENCE, Frames
from reports import numbers, words
from reports.figures import Plot, _style

COLUMNS, ROWS = 4, 3
_COLUMNS = [
    "batch_size", "text_length", "asked_repetition_ratio", "item_repetition_ratio", "method", "label", "ok_blocks",
    "speed_up", "speed_up_low", "speed_up_high", "reference_outcome",
]  # fmt: skip


def draw(frames: Frames) -> Figure | None:
    """Panels: batch sizes x text lengths; where the log itself sets the ratio, batch sizes are points of one panel."""
    summary = frames.summary[_COLUMNS]
    methods = summary[(summary["method"] != REFERENCE) & summary["item_repetition_ratio"].notna()]
    known = methods[methods["speed_up"].notna()]
    if known.empty:
        return None
    asked = summary["asked_repetition_ratio"].notna().any()
    all_texts, all_batches = (
        words.order(methods["text_length"]),
        words.order(methods["batch_size"]) if asked else [None],
    )
    texts, batches = _style.spread(all_texts, ROWS), _style.spread(all_batches, COLUMNS)
    low = min(0.95, known["speed_up"].min()) / 1.1
    high = max(2.0, known["speed_up"].max(), known["item_repetition_ratio"].max()) * 1.25
    looks = _style.looks(methods)
    ideal = Line2D([], [], color=_style.MUTED, linestyle=(0, (5, 3)), linewidth=1.1, label="ideal: speed-up = ratio")
    sheet = _style.sheet(
        len(texts),
        len(batches),
        size=_style.panel_size(len(batches), 1.9),
        legend=[*_style.handles(looks), ideal],
        notes=_style.left_out(text_lengths=(texts, all_texts), batch_sizes=(batches, all_batches)),
        x="Repetition ratio",
        y="Speed-up against e2e",
    )
    grid = sheet.axes
    for row, text in enumerate(texts):
        for column, batch in enumerate(batches):
            ax = grid[row, column]
            panel = _style.only(methods, "text_length", text)
            panel = panel if batch is None else _style.only(panel, "batch_size", batch)
            _panel(ax, panel, looks, mark_batches=batch is None)
            title = f"{numbers.plain(text)} tokens"
            ax.set_title(title if batch is None else f"{numbers.plain(batch)} users, {title}", loc="left")
    _style.times_ticks(grid[0, 0], low, high)
    grid[0, 0].set_ylim(low, high)
    _ideal_lines(grid, known)
    return sheet.figure


def _panel(ax: Axes, panel: pd.DataFrame, looks: dict[str, _style.Look], *, mark_batches: bool) -> None:
    shown = panel[panel["speed_up"].notna()].sort_values("item_repetition_ratio")
    for label, look in looks.items():
        line = shown[shown["label"] == label]
        if line.empty:
            continue
        ax.plot(line["item_repetition_ratio"], line["speed_up"], zorder=3, **look.line())
        several = line[line["ok_blocks"] > 1]
        ax.vlines(
            several["item_repetition_ratio"], several["speed_up_low"], several["speed_up_high"], color=look.color, lw=1
        )
    if mark_batches and not shown.empty:
        small: dict[str, Any] = {"ha": "center", "fontsize": 7.5, "color": _style.MUTED}
        for point in shown.loc[shown.groupby("batch_size")["speed_up"].idxmax()].to_dict("records"):
            where = (point["item_repetition_ratio"], point["speed_up"])
            text = f"batch {numbers.plain(point['batch_size'])}"
            ax.annotate(text, where, xytext=(0, 8), textcoords="offset points", **small)
    if shown.empty:
        outcomes = dict.fromkeys(words.OUTCOMES[code] for code in panel["reference_outcome"] if code != "ok")
        reason = f"no speed-up:\ne2e {words.listing(outcomes)}" if outcomes else "no speed-up"
        ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", fontsize=8, color=_style.MUTED)


def _ideal_lines(grid: np.ndarray, known: pd.DataFrame) -> None:
    """y = x and y = 1 across every panel that holds a line, on the ratios that were realised."""
    ratios = known["item_repetition_ratio"]
    left, right = min(1.0, ratios.min()) / 1.12, max(2.0, ratios.max()) * 1.12
    powers = [2.0**power for power in range(12)]
    ticks = powers if right / left > 6 else [*powers, 1.5, 3, 6, 12]
    for ax in grid.flat:
        if ax.lines:
            ax.plot([1, right], [1, right], color=_style.MUTED, linestyle=(0, (5, 3)), linewidth=1.1, zorder=1)
            ax.axhline(1, color="#b8b5ad", linewidth=0.9, zorder=1)
    _style.value_ticks(grid[0, 0], sorted(tick for tick in ticks if left <= tick <= right))
    grid[0, 0].set_xlim(left, right)


PLOTS = {
    "speed_up_by_repetition": Plot(
        "Speed-up against repetition ratio",
        "The dashed line is what encoding every unique item once would give if nothing else took time: speed-up = item "
        "slots / unique items of one batch. multi_step may lie above it, since it shares encodings across a whole "
        "interval.",
        draw,
        10,
    )
}
