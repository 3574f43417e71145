"""TOML tables that remember where each key was written, so that an error can name file and line.

`tomllib` parses; its values carry no positions, so `key_lines` finds the statements of a document again and lets
`tomllib` read each one alone for its keys.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import ConfigError

Path = tuple[str | int, ...]
"""Keys and list positions from the root: ("sweep", "part", 0, "batch_size")."""


@dataclass(frozen=True)
class Source:
    """Values of one origin, and the place of each key within it."""

    values: dict[str, Any]
    places: Mapping[Path, str]
    """What an error says about a path: `bench.toml, line 12`."""

    def under(self, key: str) -> Source:
        """The table `key` as a source of its own; empty where there is none."""
        places = {path[1:]: place for path, place in self.places.items() if path[0] == key and len(path) > 1}
        return Source(self.values.get(key, {}), places)


def parse_file(text: str, name: str) -> Source:
    """Parses a TOML document; raises ConfigError with name and line where it is none."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.match(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)$", str(error), re.DOTALL)
        message, line = found.groups() if found else (str(error), None)
        line = line or len(text.splitlines())
        raise ConfigError(f"{name}, line {line}: not valid TOML: {message[:1].lower()}{message[1:]}.") from error
    return Source(values, {path: f"{name}, line {line}" for path, line in key_lines(text).items()})


def parse_override(argument: str) -> Source:
    """`table.key=value` of `--set`; a value that is no TOML is a bare word, itself a string.

    Bare words are understood inside a list too: `sweep.method=[e2e, single_step]`. Raises ConfigError.
    """
    name, separator, value = argument.partition("=")
    keys = name.strip().split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise ConfigError(f"--set {argument}: expected table.key=value, for example --set sweep.batch_size=[16,32].")
    values: Any = _override_value(value.strip())
    for key in reversed(keys):
        values = {key: values}
    place = f"--set {name.strip()}"
    return Source(values, {tuple(keys[: depth + 1]): place for depth in range(len(keys))})


def _override_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if text.startswith("[") and text.endswith("]") and not re.search(r"[\[\]{}\"']", text[1:-1]):
            return [_override_value(word.strip()) for word in text[1:-1].split(",") if word.strip()]
        return text


def merge(sources: Sequence[Source]) -> dict[str, Any]:
    """Values of all sources, later ones on top: tables merge key by key, lists and scalars are replaced."""
    merged: dict[str, Any] = {}
    for source in sources:
        merged = _merged(merged, source.values)
    return merged


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def place_of(path: Path, sources: Sequence[Source]) -> str | None:
    """Where a merged value was written: the longest part of `path` that a source knows, the last source first."""
    for length in range(len(path), 0, -1):
        for source in reversed(sources):
            if path[:length] in source.places:
                return source.places[path[:length]]
    return None


def key_lines(text: str) -> dict[Path, int]:
    """Line (from 1) of every table and key of a valid TOML document; keys of inline tables have their statement's."""
    lines = text.replace("\r\n", "\n").split("\n")
    found: dict[Path, int] = {}
    table: Path = ()
    array_sizes: dict[Path, int] = {}
    number = 0
    while number < len(lines):
        start, stripped = number, lines[number].strip()
        number += 1
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.startswith("["):
            table = _table_path(tomllib.loads(stripped), array_sizes)
            _note(found, table, start + 1)
            continue
        while (statement := _statement(lines[start:number])) is None:
            number += 1
        for path in _paths(statement):
            _note(found, table + path, start + 1)
    return found


def _note(found: dict[Path, int], path: Path, line: int) -> None:
    for length in range(1, len(path) + 1):
        found.setdefault(path[:length], line)


def _statement(lines: Sequence[str]) -> dict[str, Any] | None:
    """The key and value on these lines; None while they end inside a value."""
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return None


def _table_path(header: dict[str, Any], array_sizes: dict[Path, int]) -> Path:
    """The path that a `[table]` or `[[array]]` header opens; counts the elements of arrays."""
    path: Path = ()
    value: Any = header
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        path += (key,)
        if isinstance(value, list):
            array_sizes[path] = array_sizes.get(path, 0) + 1
        if path in array_sizes:
            path += (array_sizes[path] - 1,)
    return path


def _paths(value: dict[str, Any]) -> list[Path]:
    """Every key of a statement, inline tables and arrays of them included."""
    paths: list[Path] = []
    for key, inner in value.items():
        paths.append((key,))
        if isinstance(inner, dict):
            paths += [(key, *path) for path in _paths(inner)]
        elif isinstance(inner, list):
            for position, element in enumerate(inner):
                if isinstance(element, dict):
                    paths += [(key, position, *path) for path in _paths(element)]
    return paths
