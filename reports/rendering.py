"""A document as HTML and as Markdown, and its files, each replaced in one step."""

import base64
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from bench.results.files import replace
from reports import numbers
from reports.document import Document, Section
from reports.table import Table, escape, markdown


@dataclass(frozen=True)
class Rendered:
    """What was written, and the store's warnings about the run."""

    page: Path
    markdown: Path
    csv: Path
    figures: tuple[Path, ...]
    warnings: tuple[str, ...]


def write(run_dir: Path, document: Document) -> Rendered:
    """Writes a run's report into its own directory; raises UnwritableResults."""
    made = Rendered(
        run_dir / "report.html",
        run_dir / "summary.md",
        run_dir / "summary.csv",
        tuple(run_dir / "figures" / f"{each.name}.png" for each in document.drawn),
        document.warnings,
    )
    with contextlib.suppress(OSError):  # pictures of an earlier rendering may no longer match the records
        for picture in (run_dir / "figures").glob("*.png"):
            picture.unlink()
    for picture, each in zip(made.figures, document.drawn, strict=True):
        replace(picture, each.png)
    replace(made.markdown, as_markdown(document).encode())
    replace(made.csv, document.csv.encode())
    replace(made.page, as_html(document).encode())
    return made


def as_html(document: Document) -> str:
    """The page: everything it shows is in it, it asks the network for nothing and needs no script."""
    return _template().render(document=document, **document.values)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = _picture
    environment.globals["count"] = numbers.count
    return environment.get_template("page.html.j2")


def _picture(png: bytes) -> Markup:
    return Markup("data:image/png;base64,") + base64.b64encode(png).decode()


def as_markdown(document: Document) -> str:
    """The page's words and tables for places that show Markdown; figures are linked."""
    return "\n\n".join(part for part in _parts(document) if part) + "\n"


def _parts(document: Document) -> Iterator[str]:
    story = document.story
    yield f"# {escape(story.headline)}"
    yield escape(" ".join(story.sentences))
    device, preset, started = document.origin
    yield escape(f"Run {document.run_id}, {preset}, {device}, {started}.")
    for section in document.shown:
        if not section.page_only:
            yield from _section(section)
    yield "## Environment"
    yield "\n".join(f"- {name}: {escape(value)}" for name, value in document.environment)
    if document.inputs:
        yield "## Inputs"
        yield "\n".join(f"- {escape(f'{name}: {facts}')}" for name, facts in document.inputs)
    fence = "`" * 3
    yield f"## Reproduce\n\n{fence}sh\n{document.command.replace(fence, '')}\n{fence}"
    yield from (escape(f"Warning: {warning}") for warning in document.warnings)


def _section(section: Section) -> Iterable[str]:
    """A heading, its sentences, its tables and links to its figures."""
    yield f"## {escape(section.title)}"
    yield from map(escape, section.notes)
    for table in section.tables:
        yield f"**{escape(table.title)}**" if table.title else ""
        yield markdown(table)
        yield below(table)
    for each in section.figures:
        title = f"{each.title}: {each.setting}" if each.setting else each.title
        yield f"![{escape(title)}](figures/{each.name}.png)"


def below(table: Table) -> str:
    """What is below a table."""
    more = f"{numbers.count(table.left_out, 'more line')} in summary.csv." if table.left_out else ""
    return " ".join(part for part in (table.below, more) if part)
