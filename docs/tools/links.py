"""Relative links of the Markdown pages: what is wrong with them, and, as a hook of MkDocs, where they lead on the site.

Pages link as a reader of the repository needs it, also to files outside docs/. On the site these are copied to files/,
and links follow them there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]*)(?:#([^)\s]*))?(?=\))")
"""(target, anchor) of `](target#anchor)`; a link with a scheme is none of ours."""
CODE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
"""A fenced block, in which nothing is a link or a heading."""


def pages() -> list[Path]:
    """The Markdown pages that people read: at the top, in docs/, of the gallery and of the findings."""
    return [
        *ROOT.glob("*.md"),
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "reports" / "gallery" / "README.md",
        ROOT / "findings" / "README.md",
    ]


def _prose(page: Path) -> str:
    return CODE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What `#` may name in a page: its headings as GitHub writes them."""
    headings = re.findall(r"^#+ +(.+?) *$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> Iterator[str]:
    """Links of a page that lead nowhere: no such file, or no such heading in it."""
    for target, anchor in LINK.findall(_prose(page)):
        file = page.parent / target if target else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            yield f"{target}#{anchor}" if anchor else target


def _place(file: Path) -> str:
    """Where a file of the repository lies on the site."""
    inside = file.relative_to(ROOT).as_posix()
    return inside.removeprefix("docs/") if inside.startswith("docs/") else f"files/{inside.lstrip('.')}"


def _linked(page: Path) -> Iterator[Path]:
    """Files outside docs/ that a page links to."""
    for target, _ in LINK.findall(_prose(page)):
        file = (page.parent / target).resolve()
        if target and file.is_file() and "docs" not in file.relative_to(ROOT).parts[:1]:
            yield file


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: adds what pages link to, and what that links to in turn."""
    from mkdocs.structure.files import File

    waiting = [Path(each.abs_src_path) for each in files.documentation_pages()]
    while waiting:
        for file in _linked(waiting.pop()):
            if files.get_file_from_path(_place(file)) is None:
                files.append(File.generated(config, _place(file), abs_src_path=str(file)))
                waiting += [file] if file.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs: has a page's links lead to where files lie on the site."""
    source = Path(page.file.abs_src_path)
    here = os.path.dirname(page.file.src_uri)

    def moved(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2]
        if target:
            target = os.path.relpath(_place((source.parent / target).resolve()), here or ".")
        return f"{target}#{anchor}" if anchor else target

    return "".join(part if CODE.match(part) else LINK.sub(moved, part) for part in CODE.split(markdown))
