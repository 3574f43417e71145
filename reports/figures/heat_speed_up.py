"""Speed-up over batch size and text length."""

from __future__ import annotations

import math

from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from bench.results.analysis.summary import REFERENCE, Frames
from bench.results.schema import RunInfo
from reports import words
from reports.figures import _heat

TITLE = "Speed-up over batch size and text length"
CAPTION = (
    "Time of e2e / time of the method, same case. Blue is faster, orange slower, white equal. Hatched cells have no "
    "number: the method itself or, where e2e is named, the reference was not measured."
)
PLACE = 40


def draw(frames: Frames, info: RunInfo) -> Figure | None:
    """Every method but e2e; colours are symmetric around 1×."""
    summary = frames.summary[frames.summary["method"] != REFERENCE]
    known = summary["speed_up"].dropna()
    if known.empty:
        return None
    reach = max(2.0, *(max(value, 1 / value) for value in known))
    reach = 2.0 ** math.ceil(math.log2(reach))
    colors = LinearSegmentedColormap.from_list(
        "slower-faster", [(0, "#d55e00"), (0.5, "#faf9f6"), (0.75, "#8fc4e3"), (1, "#00588a")]
    )
    return _heat.draw(summary, "speed_up", words.speed_up, colors, LogNorm(1 / reach, reach))
