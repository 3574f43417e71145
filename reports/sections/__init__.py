"""Further parts of the page: every file here that does not start with "_" makes one, and is found by its name.

A section module holds `PLACE` (a number; sections are in its order, between the results and the figures) and
`make(run, derived) -> Section | None`; None where the run has nothing to show there.
"""

from bench.results.analysis.summary import Frames
from bench.results.store import LoadedRun
from reports.document import Section
from reports.figures import modules


def make_all(run: LoadedRun, derived: Frames) -> tuple[Section, ...]:
    """Every section that has something to show."""
    made = (module.make(run, derived) for module in sorted(modules(__name__), key=lambda module: module.PLACE))
    return tuple(section for section in made if section is not None)
