"""A document for a terminal: the headline and its leading tables, as wide as the window allows."""

from dataclasses import replace

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from reports import rendering, words
from reports.document import Document
from reports.table import MIDDLE, Cell, Table


def shown(document: Document, width: int) -> RenderableType:
    """The headline, the leading tables, and what else a reader must know."""
    story = document.story
    parts: list[RenderableType] = [Text(story.headline, style="bold"), *map(Text, story.sentences), Text()]
    for section in document.shown:
        for table in section.tables if section.in_terminal else ():
            parts += [Text(f"{section.title}: {table.title}", style="bold"), drawn(table, width), Text()]
    parts += [Text(remark, style=style) for remark, style in document.remarks]
    return Group(*parts, *(Text(f"warning: {each}", style="yellow") for each in document.warnings))


def drawn(table: Table, width: int) -> RichTable:
    """The columns that so wide a window has room for; a group's short name is next to its first line.

    A cell's note, such as a speed-up's interval, is shown in a column that is `noted`, where there is room.
    """
    places = [place for place, column in enumerate(table.columns) if width >= column.from_width]
    noted = {place for place in places if table.columns[place].noted and width >= MIDDLE}
    grouped = any(group.short for group in table.groups)
    drawn = RichTable(
        box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim", caption_justify="left"
    )
    if grouped:
        drawn.add_column("Case", style="dim", no_wrap=True)
    for column in (table.columns[place] for place in places):
        drawn.add_column(column.short or column.label, justify="right" if column.numeric else "left", no_wrap=True)
    for group in table.groups:
        for line, row in enumerate(group.rows):
            drawn.add_row(
                *(["" if line else Text(group.short)] if grouped else []),
                *(_cell(row[place], noted=place in noted) for place in places),
            )
        drawn.add_row()
    shown = table.with_columns(lambda place, _: place in places)
    shown = replace(shown, caption=table.caption if table.left_out else "")
    drawn.caption = rendering.below(shown) or None
    return drawn


def _cell(cell: Cell, *, noted: bool) -> Text:
    style = {"strong": "bold", "muted": "dim", "bad": "red"}.get(cell.kind, "")
    shown = cell.text if noted else cell.short or cell.text
    text = Text("ok" if shown == words.OUTCOMES["ok"] else shown, style=style)
    return text.append(f" ({cell.note})", "dim") if noted and cell.note else text
