"""Time and memory of every method against single_step's, against the repetition ratio."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bench.results.analysis.summary import SINGLE_STEP, Frames
from reports import numbers, words
from reports.figures import Plot, _style
from reports.sections.peers import OURS

FINE_TICKS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.4, 1.6, 2, 2.5, 3)
GROUPS = {"exact": ("exact",), "stale and other-model": ("stale", "other-model")}


def draw(frames: Frames) -> Figure | None:
    """Rows: time, memory; columns: exact, and the rest. One batch and text, that of the most ratios; None without a
    peer, or where single_step was measured at fewer than two ratios."""
    summary = frames.summary
    if set(summary["method"]) <= set(OURS):
        return None
    ours = summary[(summary["method"] == SINGLE_STEP) & summary["median_s"].notna()]
    sizes = ours.groupby(["batch_size", "text_length"])["item_repetition_ratio"].nunique()
    if sizes.empty or sizes.max() < 2:
        return None
    batch, text = sizes.idxmax()
    chosen = summary[(summary["batch_size"] == batch) & (summary["text_length"] == text)]
    chosen = chosen[chosen["median_s"].notna()]
    looks = _style.looks(chosen)
    chosen = _relative(chosen)
    kinds = {name: chosen[chosen["exactness"].isin(kept)] for name, kept in GROUPS.items()}
    kinds = {name: rows for name, rows in kinds.items() if not rows.empty}
    sheet = _style.sheet(
        2,
        len(kinds),
        size=(3.6, 2.0),
        legend=_style.handles(looks),
        left=0.95,
        notes=_style.left_out(batch_and_text_sizes=([batch], list(sizes.index))),
        x="Repetition ratio",
        sharey="row",
    )
    for column, (name, rows) in enumerate(kinds.items()):
        title = f"{name} · {numbers.plain(batch)} users, {numbers.plain(text)} tokens"
        sheet.axes[0, column].set_title(title, loc="left")
        _panel(sheet.axes[0, column], rows, looks, "time")
        _panel(sheet.axes[1, column], rows, looks, "memory")
    for row, label in enumerate(("Time / single_step's", "Memory / single_step's")):
        ax = sheet.axes[row, 0]
        ax.set_ylabel(label)
        known = chosen[("time", "memory")[row]].dropna()
        if not known.empty:
            _parts_axis(ax, min(1.0, known.min()) / 1.25, max(1.0, known.max()) * 1.25)
    ratios = words.order(float(f"{ratio:.3g}") for ratio in chosen["item_repetition_ratio"].dropna())
    _style.value_ticks(sheet.axes[0, 0], _style.log_spread(ratios, 8))
    sheet.axes[0, 0].xaxis.set_minor_locator(NullLocator())
    return sheet.figure


def _relative(rows: pd.DataFrame) -> pd.DataFrame:
    """With the columns time (its interval: low, high) and memory, in parts of single_step's of the same ratio."""
    ours = rows[rows["method"] == SINGLE_STEP]
    by_ratio = ours.set_index("asked_repetition_ratio")["memory_bytes"]
    made = rows.assign(
        time=1 / rows["against_single_step"],
        low=1 / rows["against_single_step_high"],
        high=1 / rows["against_single_step_low"],
        memory=rows["memory_bytes"] / rows["asked_repetition_ratio"].map(by_ratio).astype(float),
    )
    return made.sort_values("item_repetition_ratio")


def _parts_axis(ax: Axes, low: float, high: float) -> None:
    """Powers of two, and steps between them where the range holds few."""
    _style.times_ticks(ax, low, high)
    if high / low < 4:
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in FINE_TICKS if low <= tick <= high]))
    ax.set_ylim(low, high)


def _panel(ax: Axes, rows: pd.DataFrame, looks: dict[str, _style.Look], quantity: str) -> None:
    ax.axhline(1, color=_style.MUTED, linewidth=0.9, zorder=1)
    for label, look in looks.items():
        line = rows[(rows["label"] == label) & rows[quantity].notna()]
        if line.empty:
            continue
        ax.plot(line["item_repetition_ratio"], line[quantity], zorder=3, **look.line())
        if quantity == "time":
            ax.vlines(line["item_repetition_ratio"], line["low"], line["high"], color=look.color, lw=1, zorder=2)


PLOTS = {
    "peers_by_repetition": Plot(
        "Against the peers",
        "A step's time and peak memory in parts of single_step's, which is the line at 1: below it is faster or "
        "smaller. Left: exact methods, which leave the same gradient. Right: stale ones, whose step is worth less, and "
        "other models, which are bounds. Bars: 95 % intervals over blocks.",
        draw,
        15,
    )
}
