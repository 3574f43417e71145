"""What import-linter's contracts in pyproject.toml cannot say: what the core may name, and what loads without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

MEETS_WRAPPERS = {"gram_core/recomputation.py"}
"""The file of the core, outside gram_core.distributed, that meets modules wrapped for several processes."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_methods_know_nothing_of_other_processes():
    """One process or many is the training's business: everything else reads as if there were one."""
    for path in modules("gram_core"):
        if path.relative_to(ROOT).parts[1] != "distributed":
            source = path.read_text(encoding="utf-8")
            assert "torch.distributed" not in source or identify(path) in MEETS_WRAPPERS, path
            assert not re.search(r"^\s*(from|import) gram_core\.distributed", source, re.MULTILINE), path


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


def test_every_folder_of_modules_is_a_package():
    """A clone lacks what version control was told to ignore, of which an installed package would be incomplete."""
    for package in ("bench", "gram_core", "reports"):
        for folder in {path.parent for path in modules(package)}:
            assert (folder / "__init__.py").exists(), folder
