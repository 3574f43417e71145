"""Writes the generated parts of README.md and docs/ from the raw runs in reports/gallery, and docs/examples/ from
examples/.

    python -m docs.tools.generate            # writes what has changed, and names it
    python -m docs.tools.generate --check    # writes nothing; exit code 1 if something would change

A part stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a function of `step_tables`, `training_tables`
or `output`. Pictures are written anew only where their numbers have changed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from docs.tools import example_pages, output, picture, step_tables, training_tables
from docs.tools.gallery import ROOT

PART = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def part(name: str) -> str:
    """The Markdown of a generated part; KeyError where there is no such part."""
    for module in (step_tables, training_tables, output):
        made: Callable[[], str] | None = vars(module).get(name)
        if made is not None:
            return made()
    raise KeyError(f"<!-- table: {name} -->: docs/tools has no function of this name")


def regenerated(text: str) -> str:
    """A page with its generated parts made again."""
    return PART.sub(lambda found: f"{found[1]}{part(found[2])}\n{found[3]}", text)


def changes(root: Path = ROOT) -> Iterator[tuple[Path, bytes]]:
    """Files of `root` that generating changes, with what they would hold."""
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        made = regenerated(text)
        if made != text:
            yield page, made.encode()
    for page, text in example_pages.pages(root):
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            yield page, text.encode()
    drawn = root / picture.FILE
    if not drawn.exists() or picture.numbers_in(drawn) != picture.plotted():
        yield drawn, picture.draw()


def main(arguments: list[str]) -> int:
    """Writes, or with --check only names, what has changed."""
    found = list(changes())
    for path, content in found:
        print(path.relative_to(ROOT))
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    return int("--check" in arguments and bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
