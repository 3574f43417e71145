"""A page of docs/examples/ per file of examples/: what of a naive loop changes, and the whole file.

A file holds both loops, the naive one where `naive` is true. Each is what is left of the file with every such `if`
decided, and without the imports of gram_core that it then does not use.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from pathlib import Path

from docs.tools.gallery import ROOT

FOLDER = Path("docs") / "examples"
CONTEXT = 4
"""Lines around a change that are shown with it."""


def pages(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Each page of `root` and its text, the index first."""
    files = sorted(path for path in (ROOT / "examples").glob("*.py") if not path.name.startswith("_"))
    sources = {path.stem: path.read_text(encoding="utf-8") for path in files}
    yield root / FOLDER / "README.md", _index(sources)
    for name, source in sources.items():
        yield root / FOLDER / f"{name}.md", _page(name, source)


def version(source: str, *, naive: bool) -> str:
    """What is left of an example as one of its two loops."""
    lines = source.splitlines()
    decided = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If) and _asks(node.test) is not None
    ]
    for node in sorted(decided, key=lambda node: -node.lineno):
        assert node.end_lineno is not None
        lines[node.lineno - 1 : node.end_lineno] = _branch(lines, node, _asks(node.test) == naive)
    return _without_unused("\n".join(lines) + "\n")


def difference(source: str) -> str:
    """From the naive loop to the other, as a unified diff without its headers."""
    before, after = (version(source, naive=naive).splitlines() for naive in (True, False))
    found = list(difflib.unified_diff(before, after, lineterm="", n=CONTEXT))[2:]
    return "\n".join("@@" if line.startswith("@@") else line for line in found)


def _asks(test: ast.expr) -> bool | None:
    """For which value of `naive` a condition holds; None where it is about something else."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _asks(test.operand)
        return None if inner is None else not inner
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else None
    return True if name == "naive" else None


def _branch(lines: list[str], node: ast.If, holds: bool) -> list[str]:
    """Lines of the branch that is taken, comments included, as far to the left as the `if`."""
    last = node.body[-1].end_lineno
    assert last is not None
    assert node.end_lineno is not None
    if holds:
        chosen = lines[node.lineno : last]
    elif node.orelse:
        other = next(place for place in range(last, node.end_lineno) if lines[place].strip() == "else:")
        chosen = lines[other + 1 : node.end_lineno]
    else:
        return []
    return [line[4:] for line in chosen]


def _without_unused(source: str) -> str:
    """Without what is imported from gram_core and not used."""
    tree, lines = ast.parse(source), source.splitlines()
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in reversed(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module == "gram_core":
            kept = [each.name for each in node.names if each.name in used]
            if kept:
                lines[node.lineno - 1 : node.end_lineno] = [f"from gram_core import {', '.join(kept)}"]
            else:
                del lines[node.lineno - 2 : node.end_lineno]  # with the empty line before it
    return "\n".join(lines) + "\n"


def _told(source: str) -> list[str]:
    """Paragraphs of an example's docstring."""
    return (ast.get_docstring(ast.parse(source)) or "").split("\n\n")


def _index(sources: dict[str, str]) -> str:
    rows = "\n".join(f"- [{name}.py]({name}.md): {_told(source)[0]}" for name, source in sources.items())
    return f"""# Examples

Each file trains tiny random models, by every slot encoded or by each item once; the suite compares the losses of both.
A page shows what changes between the two. Libraries: `pip install "gram-bench[examples]"`.

{rows}
"""


def _page(name: str, source: str) -> str:
    first, *more = _told(source)
    title, _, rest = first.removesuffix(".").partition(": ")
    commands = [each for each in more if "python " in each or "torchrun " in each] or [f"python examples/{name}.py"]
    paragraphs = [f"{rest[:1].upper()}{rest[1:]}."] if rest else []
    prose = "".join(f"{each}\n\n" for each in (*paragraphs, *more) if each not in commands)
    return f"""# {title}

{prose}From the naive loop to ours:

```diff
{difference(source)}
```

```sh
{commands[0]}
```

The whole file, [{name}.py](../../examples/{name}.py), holds both loops. Data, models and `every_slot` are in
[_shop.py](../../examples/_shop.py).

```python
{source.rstrip()}
```
"""
