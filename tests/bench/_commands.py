"""`python -m tests.bench._commands`: runs one command line after another, in one process apart from the tests'.

What it imports and its fork server serve all of them. A line in is JSON, the directory and the words; a line out is
what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from typer.testing import CliRunner

from bench.cli import app

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    exit_code: int
    output: str


@contextlib.contextmanager
def process(**variables: str) -> Iterator[Callable[..., Ended]]:
    """A function that runs a command there from a directory: (*words, cwd=...)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}
    line = [sys.executable, "-m", "tests.bench._commands"]
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, env=environment, **piped) as started:
        assert started.stdin is not None
        assert started.stdout is not None

        def run(*words: str | Path, cwd: Path) -> Ended:
            print(json.dumps([str(cwd), *map(str, words)]), file=started.stdin, flush=True)
            return Ended(**json.loads(started.stdout.readline()))

        yield run
        started.stdin.close()


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what a command leaves in a stream of its own is no answer
    for line in sys.stdin:
        directory, *words = json.loads(line)
        with contextlib.chdir(directory):
            result = CliRunner().invoke(app, words)
        print(json.dumps(asdict(Ended(result.exit_code, result.output))), file=answers, flush=True)


if __name__ == "__main__":
    main()
