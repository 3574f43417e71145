"""The figures: every file here that does not start with "_" draws one, and is found by its name.

A figure module holds `TITLE`, `CAPTION` and `draw(frames, info) -> Figure | None`; None where the data has nothing to
show. It is called once per setting (words.SETTING_COLUMNS), so only batch size, text length, repetition ratio and
method vary in its frames; with `WHOLE_RUN = True` it is called once with everything. Modules are shown in the order
of their `PLACE` (100 where a module names none).
"""

from __future__ import annotations

import importlib
import io
import pkgutil
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import matplotlib as mpl

from bench.results.analysis.summary import Frames
from bench.results.schema import RunInfo
from reports import words
from reports.figures import _style

PIXELS_PER_INCH = 100
DPI = 160
LONGEST_NAME = 120
SETTINGS = 6
"""Settings that are drawn; a sweep with more is read from its tables."""


@dataclass(frozen=True)
class Drawn:
    """A rendered figure. `setting` is empty for one that shows the whole run."""

    name: str
    title: str
    caption: str
    setting: str
    png: bytes
    width_px: int
    height_px: int
    """As shown on the page; the picture itself is finer."""


def discover() -> dict[str, ModuleType]:
    """The figure modules by file name, in the order of their place."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return dict(sorted(modules.items(), key=lambda entry: (getattr(entry[1], "PLACE", 100), entry[0])))


def draw_all(frames: Frames, info: RunInfo) -> Iterator[Drawn]:
    """Every figure that has something to show: per setting the most telling input first, then the whole run's."""
    modules = discover()
    settings = _settings(frames)
    taken: set[str] = set()
    for values, part in settings[:SETTINGS]:
        for name, module in modules.items():
            if not getattr(module, "WHOLE_RUN", False):
                setting = words.setting(values)
                title = f"{words.ORIGINS[words.origin(values)]}: {setting}"
                yield from drawn(module, file_name(name, setting, taken), title, part, info)
    for name, module in modules.items():
        if getattr(module, "WHOLE_RUN", False):
            yield from drawn(module, name, "", frames, info)


def file_name(module: str, setting: str, taken: set[str]) -> str:
    """A figure's name: no longer than is comfortable for a file, and none of those `taken`, to which it is added.

    Settings may differ in nothing that a file's name can hold, or in nothing that they print.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", setting.lower()).strip("-")
    whole = name = f"{module}--{slug}"
    if len(whole) > LONGEST_NAME:
        whole = name = f"{whole[: LONGEST_NAME - 9]}-{zlib.crc32(whole.encode()):08x}"
    number = 1
    while name in taken:
        number += 1
        name = f"{whole}-{number}"
    taken.add(name)
    return name


def undrawn(frames: Frames) -> int:
    """How many settings `draw_all` leaves to the tables."""
    return max(0, len(_settings(frames)) - SETTINGS)


def _settings(frames: Frames) -> list[tuple[dict[str, object], Frames]]:
    columns = [*words.SETTING_COLUMNS, "weights", "log"]
    distinct = frames.summary[columns].drop_duplicates().to_dict("records")
    distinct.sort(key=lambda row: list(words.ORIGINS).index(words.origin(row)))
    return [(row, frames.only({column: row[column] for column in words.SETTING_COLUMNS})) for row in distinct]


def drawn(module: ModuleType, name: str, setting: str, frames: Any, info: RunInfo) -> Iterator[Drawn]:
    """One module's figure of these frames, if they have something for it."""
    with mpl.rc_context(_style.RC):  # type: ignore[arg-type]
        figure = module.draw(frames, info)
        if figure is None:
            return
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=DPI)
    width, height = figure.get_size_inches() * PIXELS_PER_INCH
    yield Drawn(name, module.TITLE, module.CAPTION, setting, png.getvalue(), round(width), round(height))
