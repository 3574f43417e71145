"""A plan as a page: `plan.html` and its figures, next to `plan.json`."""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.results.files import replace
from bench.results.forecast import BatchCounts, Forecast, ForecastLine, Interval
from reports import numbers, rendering, toml
from reports.document import Document, Section, Story
from reports.plans import figures
from reports.tables import Cell, Column, Group, Table

PAGE = "plan.html"
NOTE = (
    "Nothing was trained: counts come from the log, seconds from coefficients that short steps gave, memory from "
    "shapes."
)

LINES = (
    Column("Method", numeric=False),
    Column("Speed-up against e2e"),
    Column("Time per step", "ms"),
    Column("Users", "per s"),
    Column("Epoch"),
    Column("Peak memory"),
    Column("Gradient", numeric=False),
    Column("Waits for", numeric=False),
)
COUNTS = (
    Column("Users"),
    Column("Steps"),
    Column("Item slots"),
    Column("Unique items"),
    Column("Repetition ratio"),
    Column("Real tokens"),
    Column("Padded tokens"),
    Column("Tokens of unique items"),
    Column("Counted", "groups"),
)


def render(out: Path, forecast: Forecast) -> Path:
    """Writes the page into the folder `out`; raises UnwritableResults."""
    made = document(forecast)
    for each in made.drawn:
        replace(out / "figures" / f"{each.name}.png", each.png)
    replace(out / PAGE, rendering.as_html(made).encode())
    return out / PAGE


def document(forecast: Forecast) -> Document:
    """Everything that the page prints."""
    case = ", ".join(f"{name} {value}" for name, value in forecast.case.items() if value is not None)
    first, _, rest = forecast.recommendation.partition(". ")
    return Document(
        run_id=forecast.made_at,
        origin=(forecast.device, "preset plan", numbers.moment(forecast.made_at)),
        story=Story(first.rstrip("."), (rest,) if rest else ()),
        sections=(
            Section("forecast", "Forecast", (NOTE,), (lines_table(forecast),)),
            Section("figures", "Figures", figures=tuple(figures.draw_all(forecast))),
            Section("largest", "Largest batch", (), (largest_table(forecast),)),
            Section("counts", "What batches hold", (), (counts_table(forecast),)),
        ),
        environment=[("Case", case), *_basis(forecast)],
        inputs=[("encoder", forecast.encoder)],
        command=shlex.join(forecast.command),
        config=toml.write(forecast.config),
        files="All numbers: plan.json.",
        numbers_at="plan.json",
        notices=tuple(f"Left out: {each}" for each in forecast.left_out),
    )


def lines_table(forecast: Forecast) -> Table:
    """Every method at the user's batch size, then at the others, an engine and a size to a group."""
    own = forecast.case["batch_size"]
    keys = dict.fromkeys((line.batch_size, line.engine) for line in forecast.lines)
    groups = []
    for size, engine in sorted(keys, key=lambda key: (key[0] != own, key)):
        rows = [_row(line) for line in forecast.lines if (line.batch_size, line.engine) == (size, engine)]
        groups.append(Group(f"{size} users, {engine}" + (", your case" if size == own else ""), tuple(rows)))
    return Table(LINES, tuple(groups), caption="Small figures are 90 % intervals.")


def _row(line: ForecastLine) -> tuple[Cell, ...]:
    return (
        Cell(line.label, "strong"),
        Cell(
            numbers.times(line.speed_up.value),
            "strong",
            note=numbers.ratio_range(line.speed_up.low, line.speed_up.high),
        ),
        Cell(numbers.milliseconds(line.step_s.value), note=_range(line.step_s, 1000)),
        Cell(numbers.rate(line.users_per_s.value)),
        Cell(numbers.duration(line.epoch_s.value) if line.epoch_s else numbers.MISSING),
        Cell(
            numbers.gibibytes(line.peak_bytes.value), "" if line.fits else "bad", note="" if line.fits else "too much"
        ),
        Cell(line.exactness, "badge"),
        Cell(line.limit, "muted"),
    )


def _range(interval: Interval, scale: float) -> str:
    return f"{numbers.number(interval.low * scale)} to {numbers.number(interval.high * scale)}"


def counts_table(forecast: Forecast) -> Table:
    """What the log puts into batches, and into intervals of the user's batch."""
    batches = [_counts(each) for each in forecast.counts if each.steps == 1]
    intervals = [_counts(each) for each in forecast.counts if each.steps > 1]
    groups = [Group("Batches", tuple(batches))]
    groups += [Group("Intervals of multi_step", tuple(intervals))] if intervals else []
    return Table(COUNTS, tuple(groups), caption="± is the standard error of the mean; 0 groups: extrapolated.")


def _counts(each: BatchCounts) -> tuple[Cell, ...]:
    error = each.unique_items.error
    return (
        Cell(str(each.batch_size)),
        Cell(str(each.steps)),
        Cell(numbers.rate(each.item_slots.mean)),
        Cell(numbers.rate(each.unique_items.mean), note=f"± {numbers.number(error, 2)}" if error else ""),
        Cell(numbers.number(each.item_repetition_ratio)),
        Cell(numbers.rate(each.real_tokens.mean)),
        Cell(numbers.rate(each.padded_tokens)),
        Cell(numbers.rate(each.unique_tokens.mean)),
        Cell(str(each.groups)),
    )


def largest_table(forecast: Forecast) -> Table:
    """The most users that fit."""
    columns = (Column("Method", numeric=False), Column("Engine", numeric=False), Column("Largest batch", "users"))
    rows = tuple(
        (Cell(each.label, "strong"), Cell(each.engine), Cell(str(each.batch_size or "none")))
        for each in forecast.largest
    )
    return Table(columns, (Group("", rows),), caption=f"Within {numbers.gibibytes(forecast.memory_limit_bytes)}.")


def _basis(forecast: Forecast) -> list[tuple[str, str]]:
    read = f"{forecast.users_read} users" + (", a whole epoch" if forecast.whole_epoch else ", sampled")
    facts = [("Counted", read)]
    for used in forecast.coefficients:
        basis = "; ".join((f"{used.machine}, {numbers.moment(used.measured_at)}", *used.notes))
        facts.append((f"Coefficients, {used.engine}", f"{basis}; a step is off by {numbers.percent(used.log_sd)}"))
    return facts
