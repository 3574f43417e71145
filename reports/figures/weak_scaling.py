"""Weak scaling: users per second against processes, users per process fixed."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.results.analysis.summary import Frames
from bench.results.schema import RunInfo
from reports.figures import _scaling

TITLE = "Weak scaling: more processes, each with as many users"
CAPTION = (
    "Users per second of all processes together, against one, where every process has as many users as "
    "the one. Above the dotted line lies what sharing items among processes adds."
)
PLACE = 60
WHOLE_RUN = True


def draw(frames: Frames, info: RunInfo) -> Figure | None:
    """A panel per case; None where no case was measured with two numbers of processes."""
    return _scaling.draw(frames, "batch_size")
