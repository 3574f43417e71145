"""Quality against epochs: what is left of a speed-up when every step costs the same."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.results.analysis.training_summary import TrainingFrames
from bench.results.schema import RunInfo
from reports.quality.plots import _curves

TITLE = "Quality against epochs"
CAPTION = (
    "The same evaluations by how much of the log has been stepped on. Exact methods lie on e2e's curve; a stale one "
    "that lies below it pays for its cheaper steps with more of them. The axis as above."
)
PLACE = 20


def draw(frames: TrainingFrames, info: RunInfo) -> Figure | None:
    """None where nothing was evaluated, or the log has no epochs."""
    if frames.points["epoch"].notna().sum() == 0:
        return None
    return _curves.draw(frames, "epoch", "Epochs")
