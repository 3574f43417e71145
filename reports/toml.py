"""A configuration as TOML, the form it came in, so that a reader can save it as bench.toml and run it again."""

import json
from collections.abc import Mapping
from typing import Any


def write(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """Tables and values; what is None has no TOML form and is named in a comment."""
    tables = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    lists = {key: value for key, value in config.items() if _is_table_list(value)}
    lines = []
    for key, value in config.items():
        if value is None:
            lines.append(f"# {_key(key)} is not set")
        elif key not in tables and key not in lists:
            lines.append(f"{_key(key)} = {_value(value)}")
    if path and lines:
        lines.insert(0, f"[{'.'.join(map(_key, path))}]")
    parts = (
        ["\n".join(lines)] if lines else [f"[{'.'.join(map(_key, path))}]"] if path and not (tables or lists) else []
    )
    for key, rows in lists.items():
        parts += [f"[[{'.'.join(map(_key, (*path, key)))}]]\n" + _flat(row) for row in rows]
    parts += [write(value, (*path, key)) for key, value in tables.items()]
    return "\n\n".join(part for part in parts if part)


def _is_table_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def _flat(row: Mapping[str, Any]) -> str:
    return "\n".join(f"{_key(key)} = {_value(value)}" for key, value in row.items() if value is not None)


def _key(key: str) -> str:
    plain = bool(key) and all(sign.isascii() and (sign.isalnum() or sign in "-_") for sign in key)
    return key if plain else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {_value(entry)}" for key, entry in value.items() if entry is not None)
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(entry) for entry in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
