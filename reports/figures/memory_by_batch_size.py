"""Peak memory against batch size, per method."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.results.analysis.summary import Frames
from bench.results.schema import RunInfo
from reports.figures import _curves

TITLE = "Peak memory against batch size"
CAPTION = (
    "Both axes are logarithmic. On a graphics card the peak of its allocator, on a CPU the process's resident peak. "
    "Marks at the upper edge are cases without a number."
)
PLACE = 30


def draw(frames: Frames, info: RunInfo) -> Figure | None:
    """One panel per repetition ratio and text length; None where only one batch size was measured."""
    return _curves.draw(frames, _curves.MEMORY, "batch_size")
