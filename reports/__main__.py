"""`python -m reports RUN_DIR`: renders a run directory and prints where the page lies."""

import sys
from pathlib import Path

from bench.results.store import ResultsError
from reports.page import render
from reports.plain_signs import write_in_plain_signs


def main(arguments: list[str]) -> int:
    """Exit code 0 with a page, 1 where the run cannot be read or written to, 2 on wrong usage."""
    write_in_plain_signs(sys.stdout, sys.stderr)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m reports RUN_DIR", file=sys.stderr)
        return 2
    try:
        rendered = render(Path(arguments[0]))
    except ResultsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for warning in rendered.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(rendered.page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
