"""A validation error as a sentence: which key, what was expected, what was found, which key was meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
}
_BOUNDS = {"greater_than_equal": "at least {ge}", "greater_than": "above {gt}", "less_than_equal": "at most {le}"}


def key_name(path: Iterable[str | int]) -> str:
    """`sweep.part[0].batch_size` for ("sweep", "part", 0, "batch_size")."""
    name = ""
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f"{'.' if name else ''}{step}"
    return name


def found(value: Any) -> str:
    """A value as its writer knows it: `the string "x"`."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'the string "{value}"'
        case int() | float():
            return f"{value}"
        case dict():
            return "a table"
        case list() | tuple():
            return "a list" if value else "an empty list"
    return f"a {type(value).__name__}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean "x"?`, or all that is valid where nothing is near."""
    valid = tuple(valid)
    matches = get_close_matches(name, valid, n=1, cutoff=0.5)
    if matches:
        return f'did you mean "{matches[0]}"?'
    return f"valid here: {', '.join(valid)}." if valid else "there is nothing to set here."


def sentence(error: ErrorDetails, valid_keys: Iterable[str], path: Iterable[str | int]) -> str:
    """What is wrong with the value at `path`; `valid_keys` are those of the table that holds it."""
    name, kind, context = key_name(path), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {name}; {nearest(str(error['loc'][-1]), valid_keys)}"
    if kind == "too_short":
        return f"{name} is an empty list; the sweep needs at least one value of it."
    if kind in _EXPECTED:
        return f"{name} must be {_EXPECTED[kind]}, not {found(error['input'])}."
    if kind in _BOUNDS:
        return f"{name} must be {_BOUNDS[kind].format(**context)}, not {found(error['input'])}."
    if kind == "literal_error":
        return f"{name} must be one of {context['expected']}, not {found(error['input'])}."
    message = error["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{name}: {message}; found {found(error['input'])}."


def fields_at(model: type[BaseModel], path: Iterable[str | int]) -> tuple[str, ...]:
    """The keys of the table at `path` below `model`, whose fields may hold models or tuples of them."""
    current: type[BaseModel] | None = model
    for step in path:
        if isinstance(step, str) and current is not None:
            field = current.model_fields.get(step)
            current = _model_in(field.annotation) if field else None
    return tuple(current.model_fields) if current is not None else ()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in getattr(annotation, "__args__", ()) if (model := _model_in(inner))), None)
