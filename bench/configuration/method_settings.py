"""`[method.NAME]` tables against the method's `Settings`.

Those of the core's methods and of the peers are declared without torch, which takes longer to import than everything
else that the command line does before a run; a method of one's own is imported for them.
"""

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

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


def settings_class(method: str, plugins: Sequence[str] = ()) -> type[Any]:
    """The method's `Settings`: as its package declares them, else of its class, for which torch is imported."""
    package = method_names(plugins)[method]
    declared = importlib.import_module(f"{package}._settings").SETTINGS if package in methods.PACKAGES else {}
    found: type[Any] = declared.get(method) or methods.method_class(method, plugins).Settings
    return found


def setting_types(method: str, plugins: Sequence[str] = ()) -> dict[str, str]:
    """Fields of the method's `Settings` and their annotations."""
    return {field.name: _in_words(field.type) for field in fields(settings_class(method, plugins))}


def _in_words(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


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
        expected = TypeAdapter(get_type_hints(settings_class(method, plugins))[key])
    except NameError:  # a type that is known to type checkers alone: its `Settings` judge, before the run
        return
    try:
        expected.validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(sentence(error.errors()[0], (), ("method", method, key))) from error


def check_table(method: str, table: dict[str, Any], plugins: Sequence[str] = ()) -> None:
    """Raises ValueError where the method's `Settings` refuse these values together. Imports torch."""
    methods.method_class(method, plugins).Settings(**table)
