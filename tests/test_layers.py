"""Imports run one way: gram_core <- bench, bench.results <- reports; results and reports load without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = {"bench", "gram_core", "reports"}
COMMAND_LINE = {
    "bench/cli.py",
    "bench/__main__.py",
    "bench/session.py",
    "bench/gating/session.py",
    "bench/planning/session.py",
}
"""The files of bench that put everything together."""

MEETS_WRAPPERS = {"gram_core/recomputation.py"}
"""The file of the core, outside gram_core.distributed, that meets modules wrapped for several processes."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of our own packages that a file imports, anywhere in it, relative imports resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in OURS}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def foreign(package: str, *allowed: str) -> set[tuple[str, str]]:
    """Files of a package, each with what it imports of ours that does not begin like any of these."""
    return {(named(path), name) for path in modules(package) for name in imported(path) if not name.startswith(allowed)}


def test_the_core_knows_neither_harness_nor_reports():
    assert foreign("gram_core", "gram_core") == set()


def test_methods_know_nothing_of_other_processes():
    """One process or many is the training's business: everything else reads as if there were one."""
    for path in modules("gram_core"):
        if path.relative_to(ROOT).parts[1] != "distributed":
            assert "torch.distributed" not in path.read_text(encoding="utf-8") or named(path) in MEETS_WRAPPERS
            assert not any(name.startswith("gram_core.distributed") for name in imported(path)), path


def test_reports_know_results_only():
    assert foreign("reports", "reports", "bench.results") == set()


def test_results_know_neither_core_nor_reports():
    assert foreign("bench/results", "bench.results", "bench.errors") == set()


def test_only_the_command_line_knows_reports():
    assert {path for path, name in foreign("bench", "bench", "gram_core")} <= COMMAND_LINE


def test_the_check_sees_imports_of_every_form(tmp_path, monkeypatch):
    """Guard: a check that finds no import at all would pass on anything."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "reports").mkdir()
    path = tmp_path / "reports" / "x.py"
    path.write_text(
        "def f():\n    import gram_core.batch\n    from bench import cli\n    from . import words\nimport numpy\n"
    )
    assert imported(path) >= {"gram_core.batch", "bench.cli", "reports.words"}
    assert not any(name.startswith("numpy") for name in imported(path))


def test_results_and_reports_import_without_torch():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("bench/results", "reports")
        for path in modules(package)
    ]
    assert "reports.page" in names
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "heavy = [name for name in ('torch', 'transformers') if name in sys.modules]\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
