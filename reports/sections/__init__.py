"""Further parts of the page: every file here that does not start with "_" makes one, and is found by its name.

A section module holds `PLACE` (a number; sections are in its order, between the results and the figures) and
`make(run, derived) -> Section | None`; None where the run has nothing to show there.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from bench.results.analysis.summary import Frames
from bench.results.store import LoadedRun
from reports.document import Section


def discover() -> dict[str, ModuleType]:
    """The section modules by file name, in the order of their place."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return dict(sorted(modules.items(), key=lambda entry: (entry[1].PLACE, entry[0])))


def make_all(run: LoadedRun, derived: Frames) -> tuple[Section, ...]:
    """Every section that has something to show."""
    made = (module.make(run, derived) for module in discover().values())
    return tuple(section for section in made if section is not None)
