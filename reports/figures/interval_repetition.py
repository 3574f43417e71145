"""What an accumulation interval adds: repetition in one batch against repetition over the interval."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.results.analysis.summary import Frames
from reports import numbers, words
from reports.figures import Plot, _style

LINES = 24


def draw(frames: Frames) -> Figure | None:
    """A line per workload, batch size, ratio, processes and number of steps; None where no method has an interval."""
    summary = frames.summary[frames.summary["interval_repetition_ratio"].notna()]
    if summary.empty:
        return None
    columns = ["workload", "history_length", "batch_size", "asked_repetition_ratio", "world_size", "label"]
    ratios = ["item_repetition_ratio", "interval_repetition_ratio"]
    lines = summary.groupby(columns, sort=False, dropna=False)[ratios].median().reset_index().to_dict("records")
    histories = len(words.order(summary["history_length"])) > 1
    shown = _style.spread(lines, LINES)
    names = [_name(line, histories) for line in shown]
    looks = _style.looks(summary)
    one_batch = Line2D([], [], color=_style.MUTED, marker="o", linestyle="", label="one batch")
    over = [
        Line2D([], [], color=look.color, marker="D", linestyle="", label=f"interval of {label}")
        for label, look in looks.items()
    ]
    sheet = _style.sheet(
        1,
        1,
        size=(5.0, 0.26 * len(shown) + 0.1),
        legend=[one_batch, *over],
        notes=_style.left_out(lines=(shown, lines)),
        titled=False,
        x="Item slots / unique items",
        left=0.3 + 0.072 * max(len(name) for name in names),
    )
    ax = sheet.axes[0, 0]
    for place, line in enumerate(shown):
        batch, interval = line["item_repetition_ratio"], line["interval_repetition_ratio"]
        look = looks[line["label"]]
        ax.plot([batch, interval], [place, place], color=look.color, linewidth=2.2, alpha=0.35, zorder=2)
        ax.plot([batch], [place], marker="o", color=_style.MUTED, zorder=3, markersize=5.5)
        ax.plot([interval], [place], marker="D", color=look.color, zorder=3, markersize=5.5)
        ax.annotate(numbers.number(interval), (interval, place), xytext=(7, 0), textcoords="offset points", va="center",
                    fontsize=7.5, color=_style.MUTED)  # fmt: skip
    ax.set_yticks(range(len(shown)), names)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    right = max(line["interval_repetition_ratio"] for line in shown) * 1.5
    _style.value_ticks(ax, [2.0**power for power in range(14) if 2.0**power <= right])
    ax.set_xlim(0.9, right)
    return sheet.figure


def _name(line: dict, histories: bool) -> str:
    parts = [numbers.plain(line["workload"]), f"batch {numbers.plain(line['batch_size'])}"]
    if histories:
        parts.append(f"history {numbers.plain(line['history_length'])}")
    if numbers.exists(line["asked_repetition_ratio"]):
        parts.append(f"ratio {numbers.plain(line['asked_repetition_ratio'])}")
    if line["world_size"] > 1:
        parts.append(f"{numbers.plain(line['world_size'])} processes")
    return ", ".join(parts)


PLOTS = {
    "interval_repetition": Plot(
        "Repetition in one batch and over an interval",
        "Item slots / unique items: in one batch, and over the accumulation interval of multi_step, whose encoder sees "
        "an item once per interval. The further apart the two points, the more the interval saves.",
        draw,
        50,
        whole_run=True,
    )
}
