"""The README's picture: speed-up and peak memory against the item repetition ratio, on one H100."""

from __future__ import annotations

import io
import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from docs.tools.gallery import measured, rows
from reports import numbers
from reports.figures import _style

FILE = "docs/images/speed-up-and-memory.png"
RUN = "h100-peers"
LINES = {
    "e2e": ("end-to-end: every slot encoded", "-"),
    "single_step": ("Single-step GRAM (exact)", "-"),
    "gradient_cache_unique": ("gradient caching, unique items (exact)", "-"),
    "multi_step": ("Multi-step GRAM, N = 16 (stale)", "--"),
}
"""Method -> its name for a newcomer, line style."""
KEY = "Numbers"
DPI = 140


def plotted() -> dict[str, list[list[float]]]:
    """Method -> [repetition ratio, speed-up, peak memory in GiB] for each measured ratio."""
    synthetic = measured(RUN).summary.query("workload == 'synthetic'").sort_values("item_repetition_ratio")
    return {
        method: [
            [
                round(row["item_repetition_ratio"], 3),
                round(row["speed_up"], 3),
                round(row["memory_bytes"] / numbers.GIB, 3),
            ]
            for row in rows(synthetic, method=method)
        ]
        for method in LINES
    }


def numbers_in(picture: Path) -> object:
    """What a picture was drawn from, which it carries; None where it carries nothing."""
    with Image.open(picture) as image:
        return json.loads(image.info.get(KEY, "null"))


def draw() -> bytes:
    """The picture as PNG, with its numbers in a text chunk."""
    shown = plotted()
    with mpl.rc_context(_style.RC):  # type: ignore[arg-type]
        looks = _style.looks(measured(RUN).summary)
        figure = Figure(figsize=(8.6, 3.5))
        speed, memory = figure.subplots(1, 2, gridspec_kw={
            "left": 0.075, "right": 0.985, "top": 0.78, "bottom": 0.14, "wspace": 0.2,
        })  # fmt: skip
        ratios = [point[0] for point in shown["e2e"]]
        speed.plot([1, ratios[-1]], [1, ratios[-1]], color=_style.MUTED, linewidth=1, linestyle=(0, (5, 3)))
        speed.annotate(
            "speed-up = ratio", (14, 18), rotation=30, color=_style.MUTED, fontsize=8, rotation_mode="anchor"
        )
        for method, (name, style) in LINES.items():
            look = next(look for label, look in looks.items() if label.split()[0] == method)
            drawn = {**look.line(), "linestyle": style, "linewidth": min(look.width, 2), "label": name}
            for place, ax in ((1, speed), (2, memory)):
                ax.plot(ratios, [point[place] for point in shown[method]], **drawn)
        _style.times_ticks(speed, 0.5, 32)
        _finish(speed, ratios, "Speed-up of a step against end-to-end")
        memory.set_ylim(0, None)
        _finish(memory, ratios, "Peak memory, GiB")
        handles, labels = speed.get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.06, 0.99), ncols=2, columnspacing=2)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=DPI, metadata={KEY: json.dumps(shown)})
    return png.getvalue()


def _finish(ax: Axes, ratios: list[float], title: str) -> None:
    _style.value_ticks(ax, ratios)
    ax.set_xlabel("Item repetition ratio: item slots / unique items of a batch")
    ax.set_title(title, loc="left")
