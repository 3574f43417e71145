"""The summary of a run for a terminal: the headline and its table, as wide as the window allows."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from bench.results import stats
from bench.results.store import LoadedRun
from bench.results.summary import Frames, frames
from reports import inputs, story, tables, words

_NARROW = ("Method", "Repetition ratio", "Speed-up against e2e", "Time per step", "Peak memory", "Outcome")
_MIDDLE = ("Gradient", "Against e2e_unique")
_SPEED_UP = [column.label for column in tables.HEADLINE_COLUMNS].index("Speed-up against e2e")
MIDDLE, WIDE = 110, 150
"""Columns of text from which on the middle ones, and all, of the headline table's columns are printed."""


def summary(run: LoadedRun, width: int = 100) -> RenderableType:
    """The headline, one table per origin of the input, and how many lines were not measured."""
    derived = frames(run.records)
    told = inputs.with_left_out(story.tell(derived, run.info), run.records)
    parts: list[RenderableType] = [Text(told.headline, style="bold"), *(Text(each) for each in told.sentences), Text()]
    for origin, part in tables.origins(derived).items():
        for table in tables.headlines(part):
            title = f"{words.ORIGINS[origin]}: {table.title}"
            parts += [Text(title, style="bold"), _table(table, width), Text()]
    return Group(
        *parts,
        *_environment(run),
        *_failures(derived),
        *(Text(f"warning: {each}", style="yellow") for each in run.warnings),
    )


def print_summary(run: LoadedRun, console: Console | None = None) -> None:
    """Prints `summary` as wide as the console is."""
    console = console or Console()
    console.print(summary(run, console.width))


def _environment(run: LoadedRun) -> list[Text]:
    trust = stats.trust(run.records, stats.canary_limit(run.info))
    return [Text(story.environment(trust), style="" if trust.trusted else "red")] if trust else []


def _failures(derived: Frames) -> list[Text]:
    outcomes = derived.records["outcome"].value_counts()
    parts = [f"{amount} {words.OUTCOMES[code]}" for code, amount in outcomes.items() if code != "ok"]
    return [Text(f"Not measured: {words.listing(parts)}.", style="yellow")] if parts else []


def _table(table: tables.Table, width: int) -> RichTable:
    """One setting; a case's name (B users, L tokens, ratio r asked for) stands beside its first line."""
    labels = _NARROW if width < MIDDLE else (*_NARROW, *_MIDDLE)
    noted = {table.columns[_SPEED_UP].label} if width >= MIDDLE else set()
    return drawn(table, None if width >= WIDE else set(labels), noted, "Case")


def drawn(table: tables.Table, labels: set[str] | None, noted: set[str], groups: str = "") -> RichTable:
    """The columns of these labels, all for None; notes in `noted` ones; `groups` heads a column of group names."""
    shown = [place for place, column in enumerate(table.columns) if labels is None or column.label in labels]
    drawn = RichTable(
        box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim", caption_justify="left"
    )
    if groups:
        drawn.add_column(groups, style="dim", no_wrap=True)
    for place in shown:
        column = table.columns[place]
        drawn.add_column(column.short or column.label, justify="right" if column.numeric else "left", no_wrap=True)
    for group in table.groups:
        for line, row in enumerate(group.rows):
            drawn.add_row(
                *(["" if line else Text(group.short)] if groups else []),
                *(_cell(row[place], noted=table.columns[place].label in noted) for place in shown),
            )
        drawn.add_row()
    below = []
    if table.left_out:
        below += [table.caption, f"{words.count(table.left_out, 'more line')} in summary.csv."]
    if any(tables.MAY_BE_ONE in row[place].note for group in table.groups for row in group.rows for place in shown):
        below += [tables.HOLDS_ONE]
    drawn.caption = " ".join(part for part in below if part) or None
    return drawn


def _cell(cell: tables.Cell, *, noted: bool) -> Text:
    """A cell; its note, such as a speed-up's interval, only where there is room."""
    style = {"strong": "bold", "muted": "dim", "bad": "red"}.get(cell.kind, "")
    shown = cell.text if noted else cell.short or cell.text
    text = Text("ok" if shown == words.OUTCOMES["ok"] else shown, style=style)
    return text.append(f" ({cell.note})", "dim") if noted and cell.note else text
