"""The figures of a training run: every file here that does not start with "_" holds some, as those of a run's page do.

A plot is called once per case.
"""

from collections.abc import Iterator

from bench.results.analysis.training_summary import TrainingFrames
from bench.results.identity import AXES, SETTING
from reports import words
from reports.figures import Drawn, discover, drawn, file_name

CASES = 6
"""Cases that are drawn; the tables have all."""


def draw_all(frames: TrainingFrames) -> Iterator[Drawn]:
    """Every figure of every case that has something to show."""
    taken: set[str] = set()
    for case, part in _cases(frames)[:CASES]:
        for name, plot in discover(__name__).items():
            yield from drawn(plot, file_name(name, case, taken), case, part)


def undrawn(frames: TrainingFrames) -> int:
    """How many cases `draw_all` leaves to the tables."""
    return max(0, len(_cases(frames)) - CASES)


def _cases(frames: TrainingFrames) -> list[tuple[str, TrainingFrames]]:
    distinct = frames.summary[[*AXES, *SETTING]].drop_duplicates().to_dict("records")
    return [(words.case(values), frames.only(values)) for values in distinct]
