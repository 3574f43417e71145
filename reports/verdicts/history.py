"""A speed-up over many runs: every line of every run below a folder, as a picture and a table."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bench.results import store
from bench.results.analysis.lines import LineResult, lines
from bench.results.analysis.stats import Estimate
from reports import numbers
from reports.figures import _style
from reports.verdicts.comparison import estimated

PANELS = 6
"""Cases that are drawn, those of most runs first; the table has all."""
COLUMNS = 2
TITLE_WIDTH = 66
"""Signs that fit above a panel."""


@dataclass(frozen=True)
class Point:
    """One line of one run."""

    run_id: str
    started_at: str
    device: str
    line: LineResult
    speed_up: Estimate


@dataclass(frozen=True)
class History:
    """Points in the order their runs were started; warnings: what could not be read."""

    points: tuple[Point, ...]
    warnings: tuple[str, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs that have a point, the earliest first."""
        return tuple(dict.fromkeys(point.run_id for point in self.points))

    def panels(self) -> dict[str, list[Point]]:
        """Case and device -> points; what most runs measured comes first."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            found.setdefault(f"{point.line.case_title}, {point.device}", []).append(point)
        return dict(sorted(found.items(), key=lambda entry: -len({point.run_id for point in entry[1]})))


def collect(folder: Path) -> History:
    """Every run directory directly below `folder` (and itself), links to them left out; damaged ones are warnings."""
    points: list[Point] = []
    warnings: list[str] = []
    for place in (folder, *sorted(folder.iterdir())):
        if (place.is_symlink() and place != folder) or not (place / store.INFO_FILE).is_file():
            continue
        try:
            run = store.load(place)
        except store.ResultsError as error:
            warnings.append(str(error))
            continue
        info = run.info
        points += [
            Point(info.run_id, info.started_at, info.environment.device, line, line.speed_up)
            for line in lines(run.records)
            if line.speed_up is not None
        ]
    points.sort(key=lambda point: (point.started_at, point.run_id))
    return History(tuple(points), tuple(warnings))


def draw(history: History) -> bytes:
    """A panel per case: speed-up over runs, a line per method, the 95 % interval where several blocks give one."""
    chosen = dict(list(history.panels().items())[:PANELS])
    left_out = len(history.panels()) - len(chosen)
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    known = pd.DataFrame([{"method": point.line.method, "label": point.line.label} for point in history.points])
    looks = _style.looks(known)
    notes = [f"{numbers.count(left_out, 'further case')} in the table only"] if left_out else []
    with mpl.rc_context(_style.RC):  # type: ignore[arg-type]
        sheet = _style.sheet(
            rows,
            columns,
            size=(4.6, 2.3),
            legend=_style.handles(looks),
            notes=notes,
            gap=(0.55, 0.95),
            sharex=False,
            sharey=False,
        )
        for ax, (title, points) in zip(sheet.axes.flat, chosen.items(), strict=False):
            _panel(ax, title, points, looks)
        for ax in list(sheet.axes.flat)[len(chosen) :]:
            ax.set_visible(False)
        return _style.png(sheet.figure)


def _panel(ax: Axes, title: str, points: list[Point], looks: dict[str, _style.Look]) -> None:
    runs = list(dict.fromkeys(point.run_id for point in points))
    when = {point.run_id: numbers.moment(point.started_at) for point in points}
    for label, look in looks.items():
        own = [point for point in points if point.line.label == label]
        places = [runs.index(point.run_id) for point in own]
        ax.plot(places, [point.speed_up.value for point in own], zorder=3, **look.line())
        for place, point in zip(places, own, strict=True):
            if point.speed_up.interval:
                ax.vlines(place, *point.speed_up.interval, color=look.color, linewidth=1.2)
    ax.axhline(1, color="#b8b5ad", linewidth=0.9, zorder=1)
    ax.set_title(textwrap.fill(title, TITLE_WIDTH), loc="left", fontsize=7.5)
    ax.set_ylabel("Speed-up against e2e")
    ax.set_ylim(bottom=0)
    shown = _style.spread(list(range(len(runs))), 5)
    labels = [when[runs[place]].removesuffix(" UTC").replace(" ", "\n") for place in shown]
    ax.set_xticks(shown, labels)
    ax.margins(x=0.06)


def print_history(history: History, console: Console) -> None:
    """Every line, run by run."""
    for title, panel in history.panels().items():
        console.print(Text(title, style="bold"))
        drawn = RichTable(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
        for heading in ("Method", "Run", "Started", "Speed-up against e2e"):
            drawn.add_column(heading, overflow="fold", no_wrap=heading == "Started")
        for label in dict.fromkeys(point.line.label for point in panel):
            for point in panel:
                if point.line.label == label:
                    started = numbers.moment(point.started_at)
                    drawn.add_row(Text(label), Text(point.run_id), Text(started), estimated(point.speed_up))
        console.print(drawn)
        console.print()
