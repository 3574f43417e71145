"""A plan as a page: `plan.html` and its figures, next to `plan.json`."""

import shlex
from pathlib import Path

from bench.results.files import replace
from bench.results.forecast import BatchCounts, Forecast, ForecastLine
from reports import numbers, rendering, toml
from reports.document import Document, Section, Story
from reports.plans import figures
from reports.table import Cell, Column, Table, group, text

PAGE = "plan.html"
NOTE = (
    "Nothing was trained: counts come from the log, seconds from coefficients that short steps gave, memory from "
    "shapes."
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
        lines = (line for line in forecast.lines if (line.batch_size, line.engine) == (size, engine))
        groups.append(group(LINES, f"{size} users, {engine}" + (", your case" if size == own else ""), lines))
    return Table(LINES, tuple(groups), caption="Small figures are 90 % intervals.")


def _speed_up(line: ForecastLine) -> Cell:
    spread = numbers.ratio_range(line.speed_up.low, line.speed_up.high)
    return Cell(numbers.times(line.speed_up.value), "strong", spread)


def _step(line: ForecastLine) -> Cell:
    low, high = (numbers.number(1000 * end) for end in (line.step_s.low, line.step_s.high))
    return Cell(numbers.milliseconds(line.step_s.value), note=f"{low} to {high}")


def _memory(line: ForecastLine) -> Cell:
    found = numbers.gibibytes(line.peak_bytes.value)
    return Cell(found) if line.fits else Cell(found, "bad", "too much")


LINES = (
    text("Method", lambda line: Cell(line.label, "strong")),
    Column("Speed-up against e2e", _speed_up),
    Column("Time per step", _step, "ms"),
    Column("Users", lambda line: numbers.rate(line.users_per_s.value), "per s"),
    Column("Epoch", lambda line: numbers.duration(line.epoch_s.value) if line.epoch_s else numbers.MISSING),
    Column("Peak memory", _memory),
    text("Gradient", lambda line: Cell(line.exactness, "badge")),
    text("Waits for", lambda line: Cell(line.limit, "muted")),
)


def counts_table(forecast: Forecast) -> Table:
    """What the log puts into batches, and into intervals of the user's batch."""
    intervals = [each for each in forecast.counts if each.steps > 1]
    groups = [group(COUNTS, "Batches", (each for each in forecast.counts if each.steps == 1))]
    groups += [group(COUNTS, "Intervals of multi_step", intervals)] if intervals else []
    return Table(COUNTS, tuple(groups), caption="± is the standard error of the mean; 0 groups: extrapolated.")


def _unique(each: BatchCounts) -> Cell:
    error = each.unique_items.error
    return Cell(numbers.rate(each.unique_items.mean), note=f"± {numbers.number(error, 2)}" if error else "")


COUNTS = (
    Column("Users", lambda each: str(each.batch_size)),
    Column("Steps", lambda each: str(each.steps)),
    Column("Item slots", lambda each: numbers.rate(each.item_slots.mean)),
    Column("Unique items", _unique),
    Column("Repetition ratio", lambda each: numbers.number(each.item_repetition_ratio)),
    Column("Real tokens", lambda each: numbers.rate(each.real_tokens.mean)),
    Column("Padded tokens", lambda each: numbers.rate(each.padded_tokens)),
    Column("Tokens of unique items", lambda each: numbers.rate(each.unique_tokens.mean)),
    Column("Counted", lambda each: str(each.groups), "groups"),
)
LARGEST = (
    text("Method", lambda each: Cell(each.label, "strong")),
    text("Engine", lambda each: each.engine),
    Column("Largest batch", lambda each: str(each.batch_size or "none"), "users"),
)


def largest_table(forecast: Forecast) -> Table:
    """The most users that fit."""
    within = f"Within {numbers.gibibytes(forecast.memory_limit_bytes)}."
    return Table(LARGEST, (group(LARGEST, "", forecast.largest),), caption=within)


def _basis(forecast: Forecast) -> list[tuple[str, str]]:
    read = f"{forecast.users_read} users" + (", a whole epoch" if forecast.whole_epoch else ", sampled")
    facts = [("Counted", read)]
    for used in forecast.coefficients:
        basis = "; ".join((f"{used.machine}, {numbers.moment(used.measured_at)}", *used.notes))
        facts.append((f"Coefficients, {used.engine}", f"{basis}; a step is off by {numbers.percent(used.log_sd)}"))
    return facts
