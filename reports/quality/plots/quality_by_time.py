"""Quality against wall-clock: who gets where, when."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.results.analysis.training_summary import TrainingFrames
from bench.results.schema import RunInfo
from reports.quality.plots import _curves

TITLE = "Quality against wall-clock"
CAPTION = (
    "Validation split at every evaluation; thick: the mean over seeds, shaded: their range. Wall-clock of training "
    "steps alone. On the right, items that training never met: a model that reads no text stays at 50. Where "
    "lines begin far below their best, the axis leaves that out."
)
PLACE = 10


def draw(frames: TrainingFrames, info: RunInfo) -> Figure | None:
    """None where nothing was evaluated."""
    return _curves.draw(frames, "train_s", "Wall-clock of training")
