"""Time per step against batch size, per method."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.results.analysis.summary import Frames
from bench.results.schema import RunInfo
from reports.figures import _curves

TITLE = "Time per step against batch size"
CAPTION = (
    "Median wall-clock time of one training step; both axes are logarithmic. "
    "Marks at the upper edge are cases without a number."
)
PLACE = 20


def draw(frames: Frames, info: RunInfo) -> Figure | None:
    """One panel per repetition ratio and text length; None where only one batch size was measured."""
    return _curves.draw(frames, _curves.TIME, "batch_size")
