"""Time per step against text length, per method."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.results.analysis.summary import Frames
from bench.results.schema import RunInfo
from reports.figures import _curves

TITLE = "Time per step against text length"
CAPTION = (
    "Median wall-clock time of one training step; both axes are logarithmic. "
    "Marks at the upper edge are cases without a number."
)
PLACE = 21


def draw(frames: Frames, info: RunInfo) -> Figure | None:
    """One panel per repetition ratio and batch size; None where only one text length was measured."""
    return _curves.draw(frames, _curves.TIME, "text_length")
