"""What every page of ours shares: the template, how a run is reproduced, files that are replaced in one step."""

from __future__ import annotations

import base64
import contextlib
import os
import shlex
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.results.schema import RunInfo
from bench.results.store import UnwritableResults
from reports import tables, toml, words
from reports.figures import Drawn
from reports.sections import Section


@dataclass(frozen=True)
class Rendered:
    """What was written, and the store's warnings about the run."""

    page: Path
    markdown: Path
    csv: Path
    figures: tuple[Path, ...]
    warnings: tuple[str, ...]


def write(
    run_dir: Path, page: str, markdown: str, csv: str, drawn: Sequence[Drawn], warnings: tuple[str, ...]
) -> Rendered:
    """Writes a run's report into its own directory; raises UnwritableResults."""
    made = Rendered(
        run_dir / "report.html",
        run_dir / "summary.md",
        run_dir / "summary.csv",
        tuple(run_dir / "figures" / f"{each.name}.png" for each in drawn),
        warnings,
    )
    _clear(run_dir / "figures")
    for picture, each in zip(made.figures, drawn, strict=True):
        replace(picture, each.png)
    replace(made.markdown, markdown.encode())
    replace(made.csv, csv.encode())
    replace(made.page, page.encode())
    return made


def _clear(folder: Path) -> None:
    """Removes the pictures of an earlier rendering, which may no longer match the records."""
    with contextlib.suppress(OSError):
        for picture in folder.glob("*.png"):
            picture.unlink()


def replace(path: Path, content: bytes) -> None:
    """Replaces the file in one step, so that nobody opens half a page."""
    fresh = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(exist_ok=True)
        fresh.write_bytes(content)
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise UnwritableResults(path, error) from error


@cache
def template(name: str) -> Any:
    """A template of this package, compiled once."""
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = _picture
    environment.globals["count"] = words.count
    return environment.get_template(name)


def _picture(png: bytes) -> Markup:
    return Markup("data:image/png;base64,") + base64.b64encode(png).decode()


def reproduction(info: RunInfo, inputs: list[tuple[str, str]]) -> dict[str, Any]:
    """What a template needs of where and how a run was taken; inputs: what encoders and workloads say of themselves."""
    return {
        "info": info,
        "environment": tables.environment(info),
        "inputs": inputs,
        "started": words.moment(info.started_at),
        "command": shlex.join(info.command),
        "config": toml.write(info.config),
    }


def grouped(drawn: Iterable[Drawn]) -> dict[str, list[Drawn]]:
    """Figures by their setting."""
    groups: dict[str, list[Drawn]] = {}
    for each in drawn:
        groups.setdefault(each.setting, []).append(each)
    return groups


def markdown_head(headline: str, sentences: Sequence[str], info: RunInfo) -> list[str]:
    """Title, summary and origin of a run, for places that show Markdown."""
    told = f"Run {info.run_id}, preset {info.preset}, {info.environment.device}, {words.moment(info.started_at)}."
    return [f"# {tables.escape(headline)}", tables.escape(" ".join(sentences)), tables.escape(told)]


def markdown_section(section: Section) -> list[str]:
    """A heading, its sentences and its tables."""
    parts = [f"## {tables.escape(section.title)}", *(tables.escape(note) for note in section.notes)]
    for table in section.tables:
        parts += [f"**{tables.escape(table.title)}**"] if table.title else []
        parts += [tables.markdown(table), left_out(table)]
    return parts


def markdown_end(context: dict[str, Any], groups: dict[str, list[Drawn]], warnings: Iterable[str]) -> list[str]:
    """Figures, linked; machine, inputs and command of a run."""
    parts = ["## Figures"] if groups else []
    for setting, drawn in groups.items():
        parts += [
            f"![{tables.escape(f'{each.title}: {setting}' if setting else each.title)}](figures/{each.name}.png)"
            for each in drawn
        ]
    parts += [
        "## Environment",
        "\n".join(f"- {name}: {tables.escape(value)}" for name, value in context["environment"]),
    ]
    if context["inputs"]:
        parts += ["## Inputs", "\n".join(f"- {tables.escape(f'{name}: {facts}')}" for name, facts in context["inputs"])]
    fence = "`" * 3
    parts += ["## Reproduce", f"{fence}sh\n{context['command'].replace(fence, '')}\n{fence}"]
    return [*parts, *(tables.escape(f"Warning: {warning}") for warning in warnings)]


def joined(parts: Iterable[str]) -> str:
    """Markdown of its parts, empty ones left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def left_out(table: tables.Table) -> str:
    """What stands below a table."""
    more = f"{words.count(table.left_out, 'more line')} in summary.csv." if table.left_out else ""
    return " ".join(part for part in (table.below, more) if part)
