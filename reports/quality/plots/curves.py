"""Validation quality as training goes on: a line per method, the mean over its seeds, their spread behind it."""

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.training_summary import TrainingFrames
from reports.figures import Plot, _style
from reports.quality.tables import metric

TICKS_S = (
    *(factor * 10.0**power for power in (-3, -2, -1, 0) for factor in (1, 2, 5)),
    *(10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 2 * 3600, 5 * 3600, 10 * 3600, 20 * 3600, 50 * 3600, 100 * 3600),
)
"""Round times."""
LOG_FROM = 8.0
"""Ratio of the longest to the shortest training from which on the axis of time is logarithmic."""

SHOWN_BELOW = 3.0
"""How far below the lowest of the lines' bests an axis goes, in parts of how far these lie apart."""


def draw(frames: TrainingFrames, x: str, label: str) -> Figure | None:
    """The deciding metric, and its cold-start twin where there is one, against column `x`; None without a curve.

    Wall-clock is on a logarithmic axis where lines differ much in it.
    """
    shown = [name for name in frames.metrics[:2] if frames.points[f"validation_{name}"].notna().any()]
    if not shown:
        return None
    looks = _style.looks(frames.summary)
    sheet = _style.sheet(
        1,
        len(shown),
        size=(4.6, 2.9),
        legend=_style.handles(looks),
        gap=(0.75, 0.42),
        x=label,
        y="Validation, hundredths",
        sharey=False,
    )
    for ax, name in zip(sheet.axes[0], shown, strict=True):
        for line, look in looks.items():
            _line(ax, frames.points[frames.points["label"] == line], x, f"validation_{name}", look)
        _reference(ax, frames, name, looks)
        _enter_from_below(ax, frames.points, f"validation_{name}")
        ax.set_title(metric(name), loc="left")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    _scale(sheet.axes[0], frames.points[x], times=x == "train_s")
    return sheet.figure


def _line(ax: Axes, points: pd.DataFrame, x: str, y: str, look: _style.Look) -> None:
    """Mean and spread over the steps that every seed got to; single seeds thin, as far as they go."""
    points = points[points[y].notna()]
    if points.empty:
        return
    seeds = points["seed"].nunique()
    if seeds > 1:
        for _, own in points.groupby("seed"):
            ax.plot(own[x], own[y], color=look.color, linewidth=0.7, alpha=0.45, zorder=2)
    steps = points.groupby("step")
    common = steps[y].count() == seeds
    where, middle = steps[x].mean()[common], steps[y].mean()[common]
    if seeds > 1:
        ax.fill_between(
            where, steps[y].min()[common], steps[y].max()[common], color=look.color, alpha=0.13, linewidth=0
        )
    style = look.line() | {"markersize": 0.8 * look.line()["markersize"], "markevery": max(1, len(where) // 12)}
    ax.plot(where, middle, zorder=3, **style)


def _enter_from_below(ax: Axes, points: pd.DataFrame, y: str) -> None:
    """Cuts off what lies lower under the lines' bests than these lie apart three times over: where lines begin, which
    would squeeze where they end.
    """
    bests = points.groupby(["label", "seed"])[y].max().groupby("label").mean().dropna()
    apart = max(0.01, float(bests.max() - bests.min())) if len(bests) else 0.0
    bottom = float(bests.min()) - SHOWN_BELOW * apart if len(bests) else 0.0
    if points[y].min() < bottom:
        ax.set_ylim(bottom=bottom)


def _reference(ax: Axes, frames: TrainingFrames, name: str, looks: dict[str, _style.Look]) -> None:
    """Where e2e's best lies: what the others are to reach."""
    if name != frames.metrics[0] or REFERENCE not in looks:
        return
    ended = frames.seeds[(frames.seeds["method"] == REFERENCE) & (frames.seeds["outcome"] == "ok")]
    best = ended["validation"].mean()
    if best == best:
        ax.axhline(best, color=_style.MUTED, linestyle=(0, (5, 3)), linewidth=1.0, zorder=1)
        ax.annotate("e2e's best", (1, best), xycoords=("axes fraction", "data"), xytext=(-2, 3), ha="right",
                    textcoords="offset points", fontsize=7.5, color=_style.MUTED)  # fmt: skip


def _scale(axes: list[Axes], values: pd.Series, *, times: bool) -> None:
    known = values[values > 0]
    for ax in axes:
        if times and len(known) and known.max() / known.min() > LOG_FROM:
            ax.set_xscale("log")
            low, high = known.min() / 1.15, known.max() * 1.15
            ax.set_xlim(low, high)
            ticks = [tick for tick in TICKS_S if low <= tick <= high]
            ax.xaxis.set_major_locator(FixedLocator(_style.log_spread(ticks, 7)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _written(value)))
        else:
            ax.set_xlim(left=0)
            if times:
                ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _written(value)))


def _written(seconds: float) -> str:
    """A tick: 5 s, 10 min, 2 h."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s" if seconds else "0"


def draw_by_epochs(frames: TrainingFrames) -> Figure | None:
    """None where nothing was evaluated, or the log has no epochs."""
    return draw(frames, "epoch", "Epochs") if frames.points["epoch"].notna().any() else None


PLOTS = {
    "quality_by_time": Plot(
        "Quality against wall-clock",
        "Validation split at every evaluation; thick: the mean over seeds, shaded: their range. Wall-clock of training "
        "steps alone. On the right, items that training never met: a model that reads no text stays at 50. Where lines "
        "begin far below their best, the axis leaves that out.",
        partial(draw, x="train_s", label="Wall-clock of training"),
        10,
    ),
    "quality_by_epochs": Plot(
        "Quality against epochs",
        "The same evaluations by how much of the log has been stepped on. Exact methods lie on e2e's curve; a stale "
        "one that lies below it pays for its cheaper steps with more of them. The axis as above.",
        draw_by_epochs,
        20,
    ),
}
