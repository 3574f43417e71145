"""Peak memory against text length, per method."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.results.analysis.summary import Frames
from bench.results.schema import RunInfo
from reports.figures import _curves

TITLE = "Peak memory against text length"
CAPTION = (
    "Both axes are logarithmic. On a graphics card the peak of its allocator, on a CPU the process's resident peak. "
    "Marks at the upper edge are cases without a number."
)
PLACE = 31


def draw(frames: Frames, info: RunInfo) -> Figure | None:
    """One panel per repetition ratio and batch size; None where only one text length was measured."""
    return _curves.draw(frames, _curves.MEMORY, "text_length")
