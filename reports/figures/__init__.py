"""The figures: every file here that does not start with "_" holds some as `PLOTS`, a `Plot` by its name."""

import importlib
import pkgutil
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.results.analysis.summary import Frames
from reports import words
from reports.figures import _style

PIXELS_PER_INCH = 100
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


@dataclass(frozen=True)
class Plot:
    """draw: frames -> a figure; None where they have nothing to show.

    It is called once per setting (words.SETTING_COLUMNS), so that batch size, text length, repetition ratio and method
    alone vary in its frames, or once with everything (whole_run). place: plots are shown in its order.
    """

    title: str
    caption: str
    draw: Callable[[Any], Figure | None]
    place: int
    whole_run: bool = False


def modules(package: str) -> list[ModuleType]:
    """The modules of a package that do not start with "_"."""
    folder = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_"))
    return [importlib.import_module(f"{package}.{name}") for name in names]


def discover(package: str = __name__) -> dict[str, Plot]:
    """The plots of a package's modules by name, in the order of their place."""
    plots = [named for module in modules(package) for named in module.PLOTS.items()]
    return dict(sorted(plots, key=lambda named: named[1].place))


def draw_all(frames: Frames) -> Iterator[Drawn]:
    """Every figure that has something to show: per setting the most telling input first, then the whole run's."""
    plots = discover()
    taken: set[str] = set()
    for values, part in _settings(frames)[:SETTINGS]:
        setting = words.setting(values)
        title = f"{words.ORIGINS[words.origin(values)]}: {setting}"
        for name, plot in plots.items():
            if not plot.whole_run:
                yield from drawn(plot, file_name(name, setting, taken), title, part)
    for name, plot in plots.items():
        if plot.whole_run:
            yield from drawn(plot, name, "", frames)


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


def drawn(plot: Plot, name: str, setting: str, frames: Any) -> Iterator[Drawn]:
    """The plot of these frames, if they have something for it."""
    with mpl.rc_context(_style.RC):  # type: ignore[arg-type]
        figure = plot.draw(frames)
        if figure is None:
            return
        png = _style.png(figure)
    width, height = figure.get_size_inches() * PIXELS_PER_INCH
    yield Drawn(name, plot.title, plot.caption, setting, png, round(width), round(height))
