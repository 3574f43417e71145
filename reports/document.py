"""A page as a value: a headline, and sections in their order. HTML, Markdown and terminal print the same one."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.results.schema import RunInfo
from reports import numbers, tables, toml
from reports.figures import Drawn
from reports.table import Table


@dataclass(frozen=True)
class Card:
    """One leading result. big: its number, and explained what that is; facts: names and values."""

    label: str
    exactness: str
    big: str
    explained: str
    facts: tuple[tuple[str, str], ...]
    case: str


@dataclass(frozen=True)
class Story:
    """What is at the top."""

    headline: str
    sentences: tuple[str, ...]
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading with sentences, and tables or figures below it.

    anchor: its name in links; short: its name among the contents. in_terminal: whether a terminal shows its tables;
    page_only: whether Markdown leaves it out.
    """

    anchor: str
    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = field(default=())
    short: str = ""
    figures: tuple[Drawn, ...] = ()
    in_terminal: bool = False
    page_only: bool = False

    @property
    def holds_something(self) -> bool:
        """Whether there is a figure, a row, or sentences that no table belongs to."""
        sentences = any(self.notes[:1]) and not self.tables
        return bool(self.figures) or any(table.rows for table in self.tables) or sentences

    @property
    def figure_groups(self) -> dict[str, list[Drawn]]:
        """Figures by their setting."""
        groups: dict[str, list[Drawn]] = {}
        for each in self.figures:
            groups.setdefault(each.setting, []).append(each)
        return groups


@dataclass(frozen=True)
class Document:
    """Everything that a page prints.

    origin: device, preset and time; notices: what a reader must know first; remarks: what a terminal prints below the
    tables, each with its style. terms: the template that explains the page's words, and `values` what it needs. files:
    where the numbers lie, in a sentence; numbers_at: where those of a figure do. nothing: why nothing is in it.
    """

    run_id: str
    origin: tuple[str, ...]
    story: Story
    sections: tuple[Section, ...]
    environment: list[tuple[str, str]]
    inputs: list[tuple[str, str]]
    command: str
    config: str
    files: str
    numbers_at: str
    notices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()
    terms: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    csv: str = ""
    nothing: str | None = None

    @property
    def shown(self) -> tuple[Section, ...]:
        """The sections that hold something."""
        return tuple(section for section in self.sections if section.holds_something)

    @property
    def drawn(self) -> tuple[Drawn, ...]:
        """Every figure."""
        return tuple(each for section in self.sections for each in section.figures)


def of_run(
    info: RunInfo, inputs: list[tuple[str, str]], sections: Iterable[Section | None], **further: Any
) -> Document:
    """A run's document, with where and how it was taken; sections without anything to show are left out."""
    started = numbers.moment(info.started_at)
    return Document(
        run_id=info.run_id,
        origin=(info.environment.device, f"preset {info.preset}", started),
        sections=tuple(section for section in sections if section is not None),
        environment=tables.environment(info),
        inputs=inputs,
        command=shlex.join(info.command),
        config=toml.write(info.config),
        **further,
    )


def figures(drawn: Sequence[Drawn], undrawn: str) -> Section:
    """The section of figures; undrawn: what is left to the tables, in a sentence."""
    return Section("figures", "Figures", ("", undrawn), figures=tuple(drawn))
