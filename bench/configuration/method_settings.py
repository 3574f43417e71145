"""`[method.NAME]` tables against the method's `Settings`, whose field names are read without importing the method.

Importing a method imports torch, which takes longer than everything else that the command line does before a run.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench import methods, registry
from bench.configuration.problems import sentence

ACCUMULATION_STEPS = "accumulation_steps"
"""The one setting that is an axis of the sweep."""
AUTO = "auto"
"""Accumulation steps that are chosen while training."""


def method_names(plugins: Sequence[str] = ()) -> dict[str, str]:
    """Every method's name, and the package that it comes from; raises ModuleNotFoundError for an absent plugin."""
    found: dict[str, str] = {}
    for package in (*methods.PACKAGES, *plugins):
        for name in registry.names(package):
            found.setdefault(name, package)
    return found


def setting_types(method: str, plugins: Sequence[str] = ()) -> dict[str, str]:
    """Fields of the method's `Settings` and their annotations: of the class in its file, else in the sibling's that
    the file imports from."""
    return _fields(method_names(plugins)[method], method)


def takes_accumulation_steps(method: str, plugins: Sequence[str] = ()) -> bool:
    """Whether the sweep's `accumulation_steps` multiplies this method's lines."""
    return ACCUMULATION_STEPS in setting_types(method, plugins)


def accumulation_steps(
    method: str, swept: Sequence[int | str], plugins: Sequence[str] = ()
) -> tuple[int | str | None, ...]:
    """Those of the sweep's `accumulation_steps` that make a line of this method each; (None,) where it has none.

    "auto" makes one only where the setting's type has it.
    """
    if not takes_accumulation_steps(method, plugins):
        return (None,)
    adapts = AUTO in setting_types(method, plugins)[ACCUMULATION_STEPS]
    return tuple(steps for steps in swept if steps != AUTO or adapts)


def check_value(method: str, key: str, value: Any, plugins: Sequence[str] = ()) -> None:
    """Raises ValueError where a value is not of the type of the method's setting."""
    try:
        expected = TypeAdapter(eval(setting_types(method, plugins)[key], vars(typing).copy()))
    except NameError:  # a type of the method's own: its `Settings` judge, before the run
        return
    try:
        expected.validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(sentence(error.errors()[0], (), ("method", method, key))) from error


def check_table(method: str, table: dict[str, Any], plugins: Sequence[str] = ()) -> None:
    """Raises ValueError where the method's `Settings` refuse these values together. Imports torch."""
    methods.method_class(method, plugins).Settings(**table)


@lru_cache
def _fields(package: str, method: str) -> dict[str, str]:
    tree = ast.parse(registry.source(package, method).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == "Settings":
            return {
                field.target.id: ast.unparse(field.annotation)
                for field in node.body
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            home, _, sibling = (node.module or "").rpartition(".")
            if home in methods.PACKAGES and sibling in registry.names(home):
                return _fields(home, sibling)
    return {}
