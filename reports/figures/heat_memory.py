"""Peak memory over batch size and text length."""

from __future__ import annotations

from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from bench.results.analysis.summary import Frames
from bench.results.schema import RunInfo
from reports import words
from reports.figures import _heat

TITLE = "Peak memory over batch size and text length"
CAPTION = "Peak memory in GiB; darker is more. Hatched cells have no number, OOM where the device ran out of memory."
PLACE = 41


def draw(frames: Frames, info: RunInfo) -> Figure | None:
    """Every method, e2e included."""
    known = frames.summary["memory_bytes"].dropna()
    if known.empty:
        return None
    colors = LinearSegmentedColormap.from_list("memory", ["#f6f3fa", "#c9b8dd", "#7d5ba6", "#3b1f5b"])
    norm = LogNorm(known.min() / 1.2, known.max() * 1.2)
    return _heat.draw(
        frames.summary, "memory_bytes", lambda row: words.number(row["memory_bytes"] / words.GIB), colors, norm
    )
