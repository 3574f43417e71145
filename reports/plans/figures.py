"""Speed-up and memory against batch size, a line per method, one panel per engine, the user's point marked."""

from collections.abc import Callable, Iterator
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.results.forecast import Forecast, ForecastLine, Interval
from reports import numbers
from reports.figures import Drawn, Plot, _style, drawn

MOST_LABELS = 7


def draw_all(forecast: Forecast) -> Iterator[Drawn]:
    """Both figures; none where one batch size alone was forecast."""
    if len({line.batch_size for line in forecast.lines}) > 1:
        for name, plot in PLOTS.items():
            yield from drawn(plot, name, "", forecast)


def _draw(
    forecast: Forecast,
    label: str,
    scale: float,
    read: Callable[[ForecastLine], Interval],
    *,
    limited: bool = False,
) -> Figure:
    engines = list(dict.fromkeys(line.engine for line in forecast.lines))
    rows = [{"method": line.method, "label": line.label} for line in forecast.lines]
    looks = _style.looks(pd.DataFrame(rows))
    sheet = _style.sheet(
        1,
        len(engines),
        size=_style.panel_size(len(engines)),
        legend=_style.handles(looks),
        x="Batch size (users)",
        y=label,
    )
    own = float(forecast.case["batch_size"] or 0)
    for place, engine in enumerate(engines):
        ax = sheet.axes[0, place]
        for name, look in looks.items():
            _line(
                ax, [each for each in forecast.lines if (each.label, each.engine) == (name, engine)], look, scale, read
            )
        ax.axvline(own, color=_style.MUTED, linewidth=0.9, linestyle=":")
        ax.annotate(
            f"your {own:g} users", (own, 0.98), xycoords=ax.get_xaxis_transform(), ha="left", va="top", fontsize=7,
            color=_style.MUTED, xytext=(3, 0), textcoords="offset points",
        )  # fmt: skip
        if limited:
            ax.axhline(forecast.memory_limit_bytes * scale, color=_style.MUTED, linewidth=1.0, linestyle="--")
        ax.set_title(engine, loc="left")
        ax.set_xscale("log")
        ax.set_yscale("log")
    first = sheet.axes[0, 0]
    _style.quantity_ticks(first)
    _style.value_ticks(
        first, _style.log_spread(sorted({float(line.batch_size) for line in forecast.lines}), MOST_LABELS)
    )
    return sheet.figure


def _line(
    ax: Axes, lines: list[ForecastLine], look: _style.Look, scale: float, read: Callable[[ForecastLine], Interval]
) -> None:
    lines = sorted(lines, key=lambda line: line.batch_size)
    users = [line.batch_size for line in lines]
    values = [read(line) for line in lines]
    ax.plot(users, [each.value * scale for each in values], **look.line())
    low, high = ([getattr(each, end) * scale for each in values] for end in ("low", "high"))
    ax.fill_between(users, low, high, color=look.color, alpha=0.12, linewidth=0)
    outside = [line for line in lines if not line.fits]
    ax.plot(
        [line.batch_size for line in outside], [read(line).value * scale for line in outside], linestyle="",
        marker=look.marker, color=look.color, markerfacecolor="white", markersize=6, zorder=5,
    )  # fmt: skip


PLOTS = {
    "speed_up": Plot(
        "Speed-up against batch size",
        "Over e2e at the same batch size and engine, with 90 % intervals. Open marks do not fit into memory.",
        partial(_draw, label="Speed-up over e2e", scale=1.0, read=lambda line: line.speed_up),
        1,
    ),
    "memory": Plot(
        "Peak memory against batch size",
        "From shapes, corrected by the calibration; the dashed line is the limit.",
        partial(
            _draw, label="Peak memory (GiB)", scale=1 / numbers.GIB, read=lambda line: line.peak_bytes, limited=True
        ),
        2,
    ),
}
