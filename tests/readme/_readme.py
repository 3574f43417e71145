"""The README as its tests read it: whole, in words whatever their lines, and table by table."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "reports" / "gallery"
README = (ROOT / "README.md").read_text()
WORDS = " ".join(README.split())


def rows_below(heading: str) -> list[list[str]]:
    """The cells of a table's rows, without head; `heading` is how its head begins."""
    table = README[README.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
