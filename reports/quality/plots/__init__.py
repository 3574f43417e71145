"""The figures of a training run: every file here that does not start with "_" draws one, and is found by its name.

A figure module holds `TITLE`, `CAPTION`, `PLACE` and `draw(frames, info) -> Figure | None`, called once per case.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from bench.results.analysis.training_summary import TrainingFrames
from bench.results.identity import AXES, SETTING
from bench.results.schema import RunInfo
from reports import words
from reports.figures import Drawn, drawn, file_name

CASES = 6
"""Cases that are drawn; the tables have all."""


def discover() -> dict[str, ModuleType]:
    """The figure modules by file name, in the order of their place."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return dict(sorted(modules.items(), key=lambda entry: (entry[1].PLACE, entry[0])))


def draw_all(frames: TrainingFrames, info: RunInfo) -> Iterator[Drawn]:
    """Every figure of every case that has something to show."""
    taken: set[str] = set()
    for case, part in _cases(frames)[:CASES]:
        for name, module in discover().items():
            yield from drawn(module, file_name(name, case, taken), case, part, info)


def undrawn(frames: TrainingFrames) -> int:
    """How many cases `draw_all` leaves to the tables."""
    return max(0, len(_cases(frames)) - CASES)


def _cases(frames: TrainingFrames) -> list[tuple[str, TrainingFrames]]:
    distinct = frames.summary[[*AXES, *SETTING]].drop_duplicates().to_dict("records")
    return [(words.case(values), frames.only(values)) for values in distinct]
