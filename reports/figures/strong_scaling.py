"""Strong scaling: users per second against processes, users in all fixed."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.results.analysis.summary import Frames
from bench.results.schema import RunInfo
from reports.figures import _scaling

TITLE = "Strong scaling: more processes on as many users"
CAPTION = (
    "The same joined batch, divided among more processes. Items that several of them hold are encoded by "
    "each, unless they share them."
)
PLACE = 61
WHOLE_RUN = True


def draw(frames: Frames, info: RunInfo) -> Figure | None:
    """A panel per case; None where no case was measured with two numbers of processes."""
    return _scaling.draw(frames, "joined_batch_size")
