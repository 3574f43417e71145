"""Users per second against the number of processes, each line over its own smallest number.

Lines of one method: solid where its processes share their items, dashed where each encodes its own. A line begins at
one process, where there is no difference, if the run has measured that.
"""

from collections.abc import Sequence
from functools import partial
from textwrap import wrap
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.results.analysis.summary import Frames
from reports import numbers, words
from reports.figures import Plot, _style

PANELS = 6
CHARACTERS = 34
"""That a line of a panel's title has room for."""
_TOGETHER = ("world_size", "deduplicate")
_NAMED = ("workload", "encoder", "layers", "adapter")
"""What a panel's title names by itself."""
_DASHES: dict[str, Any] = {"global": "-", "local": (0, (3, 2)), "auto": (0, (1, 1))}


def draw(frames: Frames, batch: str) -> Figure | None:
    """A panel per case. batch: the column that stays the same along a line, users of a process or of all together."""
    summary = frames.summary[frames.summary["users_per_s"].notna()].copy()
    if summary["world_size"].nunique() < 2:
        return None
    summary["joined_batch_size"] = summary["batch_size"].astype(float) * summary["world_size"].astype(float)
    fixed = [column for column in words.SETTING_COLUMNS if column not in _TOGETHER]
    fixed += ["text_length", "asked_repetition_ratio", batch]
    cases = [(rows, _lines(rows)) for _, rows in summary.groupby(fixed, sort=False, dropna=False)]
    telling = [(rows, lines) for rows, lines in cases if lines]
    if not telling:
        return None
    shown = _style.spread(telling, PANELS)
    columns = min(3, len(shown))
    titles = _titles([rows.iloc[0].to_dict() for rows, _ in shown], batch)
    looks = _style.looks(pd.concat([rows for rows, _ in shown]))
    ideal = Line2D([], [], color=_style.MUTED, linestyle=(0, (1, 2)), linewidth=1.1, label="ideal")
    shared = [
        Line2D([], [], color=_style.MUTED, linestyle=_DASHES[way], label=text)
        for way, text in (("global", "items shared"), ("local", "each its own"), ("auto", "shared where it pays"))
    ]
    sheet = _style.sheet(
        -(-len(shown) // columns),
        columns,
        size=_style.panel_size(columns, 2.1),
        legend=[*_style.handles(looks), *shared, ideal],
        notes=_style.left_out(cases=(shown, telling)),
        left=0.75,
        title_lines=max(title.count("\n") for title in titles) + 1,
        gap=(0.3, 0.75),
        sharex=False,
    )
    highest = 0.0
    for ax in sheet.axes.flat[len(shown) :]:
        ax.set_visible(False)
    for place, (_, lines) in enumerate(shown):
        ax = sheet.axes.flat[place]
        sizes = words.order(size for line in lines.values() for size, _ in line)
        highest = max(highest, sizes[-1] / sizes[0])
        for (label, way), line in lines.items():
            first = line[0][1]
            scaled = [rate / first for _, rate in line]
            highest = max(highest, *scaled)
            ax.plot([size for size, _ in line], scaled, zorder=3, **{**looks[label].line(), "linestyle": _DASHES[way]})
        ax.plot(sizes, [size / sizes[0] for size in sizes], color=_style.MUTED, linestyle=(0, (1, 2)), zorder=1)
        _style.value_ticks(ax, sizes)
        ax.set_title(titles[place], loc="left", fontsize=7.5)
        ax.set_xlabel("Processes")
        if place % columns == 0:
            ax.set_ylabel(f"Users per s, against {numbers.plain(sizes[0])}")
    sheet.axes.flat[0].set_ylim(0, highest * 1.12)
    return sheet.figure


def _lines(rows: pd.DataFrame) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(method's label, deduplicate) -> its (processes, users per s); only lines of two points and more."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for label, own in rows.groupby("label", sort=False):
        points = own.to_dict("records")
        alone = [(int(p["world_size"]), float(p["users_per_s"])) for p in points if p["world_size"] == 1]
        ways = {p["deduplicate"] for p in points if p["world_size"] != 1}
        for way in sorted(_telling(str(own["method"].iloc[0]), ways)):
            together = [
                (int(p["world_size"]), float(p["users_per_s"]))
                for p in points
                if p["world_size"] != 1 and p["deduplicate"] == way
            ]
            line = sorted([*alone, *together])
            if len(line) > 1:
                found[str(label), str(way)] = line
    return found


def _telling(method: str, ways: set[str]) -> set[str]:
    """Without what makes no difference to the method: e2e never shares items, multi_step always does."""
    only = {"e2e": "local", "multi_step": "global"}.get(method)
    return {only} if only in ways else ways


def _titles(rows: Sequence[dict[Any, Any]], batch: str) -> list[str]:
    """Of each panel: what of workload, encoder and other settings differs among them, a line each, and its batches."""
    settings: list[Sequence[str]] = [[numbers.plain(row["workload"]), words.encoder(row)] for row in rows]
    named = [place for place in range(2) if len({setting[place] for setting in settings}) > 1]
    others = [column for column in words.SETTING_COLUMNS if column not in (*_TOGETHER, *_NAMED)]
    differing = [column for column in others if len({numbers.plain(row[column]) for row in rows}) > 1]
    return [
        "\n".join(
            line
            for part in [
                *(setting[place] for place in named),
                *([", ".join(_said(column, row) for column in differing)] if differing else []),
                _batches(row, batch),
            ]
            for line in wrap(part, CHARACTERS, break_long_words=False, break_on_hyphens=False)
        )
        for row, setting in zip(rows, settings, strict=True)
    ]


def _said(column: str, row: dict[Any, Any]) -> str:
    return f"history {numbers.plain(row[column])}" if column == "history_length" else numbers.plain(row[column])


def _batches(row: dict[Any, Any], batch: str) -> str:
    users = f"{numbers.plain(row[batch])} users{' in all' if batch != 'batch_size' else ' each'}"
    parts: Sequence[str] = [users, f"{numbers.plain(row['text_length'])} tokens"]
    if numbers.exists(row["asked_repetition_ratio"]):
        parts = [*parts, f"ratio {numbers.plain(row['asked_repetition_ratio'])}"]
    return ", ".join(parts)


PLOTS = {
    "weak_scaling": Plot(
        "Weak scaling: more processes, each with as many users",
        "Users per second of all processes together, against one, where every process has as many users as the one. "
        "Above the dotted line lies what sharing items among processes adds.",
        partial(draw, batch="batch_size"),
        60,
        whole_run=True,
    ),
    "strong_scaling": Plot(
        "Strong scaling: more processes on as many users",
        "The same joined batch, divided among more processes. Items that several of them hold are encoded by each, "
        "unless they share them.",
        partial(draw, batch="joined_batch_size"),
        61,
        whole_run=True,
    ),
}
