"""Sessions: `nox` checks the code, `nox -s bench` measures, `nox -s report -- runs/latest` renders again,
`nox -s gate` measures and judges, `nox -s microbench` times the core's hot pieces, `nox -s docs` builds docs/.

Arguments after `--` go to the program of the session. With `--no-venv` nothing is installed: for GPU images
that bring their own torch.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec

import nox
from nox.virtualenv import PassthroughEnv

nox.needs_version = ">=2024.10"
nox.options.sessions = ["tests", "lint", "types"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

PARALLEL = ["--numprocesses", "logical", "--maxprocesses", "4", "--dist", "loadscope"]
"""For pytest-xdist, which an image of one's own may lack."""
CONSTRAINTS = [] if shutil.which("nvidia-smi") else ["--constraint", "constraints-cpu.txt"]


def install(session: nox.Session, *requirements: str, shown: bool = False) -> None:
    """Installs into the session's own environment; with --no-venv the present one is taken as it is.

    shown: whether pip tells how far it is, which takes a minute or more the first time.
    """
    if not isinstance(session.virtualenv, PassthroughEnv):
        session.install(*([] if shown else ["--quiet"]), *CONSTRAINTS, *requirements, silent=not shown)


def run(session: nox.Session, *arguments: str) -> None:
    """Runs Python: the session's own, with --no-venv the one that runs nox."""
    without = isinstance(session.virtualenv, PassthroughEnv)
    session.run(sys.executable if without else "python", *arguments, external=without)


@nox.session
def tests(session: nox.Session) -> None:
    """Runs the test suite, on at most four cores."""
    install(session, "-e", ".[test,examples]")
    own = not isinstance(session.virtualenv, PassthroughEnv)
    run(session, "-m", "pytest", *(PARALLEL if own or find_spec("xdist") else ()), *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Checks style, formatting, and which package may import which (pyproject.toml's contracts)."""
    install(session, "ruff", "import-linter")
    run(session, "-m", "ruff", "check", *session.posargs)
    run(session, "-m", "ruff", "format", "--check")
    run(session, "-c", "from importlinter.cli import lint_imports_command as lint; lint()")


@nox.session
def types(session: nox.Session) -> None:
    """Checks types."""
    install(session, "-e", ".", "mypy")
    run(session, "-m", "mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the documentation into site/; a warning is an error."""
    install(session, *nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"])
    session.env["NO_MKDOCS_2_WARNING"] = "1"  # the theme's advice about a version that its extra excludes
    run(session, "-m", "mkdocs", "build", "--strict", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measures a sweep and renders its report: `nox -s bench -- --preset full`."""
    install(session, "-e", ".", shown=True)
    run(session, "-m", "bench", "run", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Renders a run's report again: `nox -s report -- runs/latest`."""
    install(session, "-e", ".")
    run(session, "-m", "bench", "report", *(session.posargs or ["runs/latest"]))


@nox.session
def gate(session: nox.Session) -> None:
    """Measures the gate's preset and holds it to floors and reference: `nox -s gate -- --reference FILE`.

    `--reference FILE`, `--allow-mismatch` and `--strict` go to `gram-bench gate`, the rest to `gram-bench run`.
    """
    install(session, "-e", ".")
    measuring, judging = split(session.posargs)
    run(session, "-m", "bench", "run", "--preset", "gate", *measuring)
    run(session, "-m", "bench", "gate", "runs/latest", *judging)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments of `run`, and those of `gate`."""
    measuring, judging, words = [], [], iter(arguments)
    for word in words:
        if word == "--reference":
            judging += [word, next(words, "")]
        elif word.startswith("--reference=") or word in ("--allow-mismatch", "--strict"):
            judging.append(word)
        else:
            measuring.append(word)
    return measuring, judging


@nox.session
def microbench(session: nox.Session) -> None:
    """Times the core's hot pieces, and replays a run's lines as rows: `nox -s microbench -- --gram-run runs/latest`."""
    install(session, "-e", ".[test]")
    run(session, "-m", "pytest", "tests/benchmarks", *session.posargs)
