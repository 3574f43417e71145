"""What differs between the places and settings of two runs, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results.schema import Environment

DECISIVE = ("device", "driver", "torch", "power_limit_w")
"""Where one of these differs, ratios may differ too, and nobody's change is to blame."""
FURTHER = (
    "device_uuid", "device_memory_bytes", "cpu", "cpu_cores", "host_memory_bytes", "os", "python", "git_sha",
    "git_dirty",
)  # fmt: skip
_UNJUDGED = ("gate", "sweep")
"""Tables of a configuration that say nothing of how a case is measured."""
_WORDS = {"power_limit_w": "power limit", "cpu_cores": "processor cores", "git_sha": "code", "device_uuid": "UUID"}


def decisive(then: Environment, now: Environment) -> list[str]:
    """What forbids to hold one run against the other; of a processor the number of its cores is part of it."""
    names = (*DECISIVE, "cpu_cores") if "cpu" in (then.device_kind, now.device_kind) else DECISIVE
    return _changed(then, now, names)


def further(then: Environment, now: Environment) -> list[str]:
    """What differs besides, libraries included; nothing that `decisive` names."""
    libraries = sorted({*then.libraries, *now.libraries} - set(DECISIVE))
    named = set(decisive(then, now))
    return [change for change in _changed(then, now, (*FURTHER, *libraries)) if change not in named]


def settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings of measuring that differ between two configurations; which cases were swept shows in the cases."""
    flat_then, flat_now = _flat(_judged(then)), _flat(_judged(now))
    names = dict.fromkeys((*flat_then, *flat_now))
    return [
        f"{name}: {_value(flat_then.get(name))} and {_value(flat_now.get(name))}"
        for name in names
        if flat_then.get(name) != flat_now.get(name)
    ]


def _judged(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: table for name, table in config.items() if name not in _UNJUDGED}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _changed(then: Environment, now: Environment, names: tuple[str, ...]) -> list[str]:
    values = [(name, _fact(then, name), _fact(now, name)) for name in names]
    return [
        f"{_WORDS.get(name, name.replace('_', ' '))}: {_value(old)} and {_value(new)}"
        for name, old, new in values
        if old != new
    ]


def _fact(place: Environment, name: str) -> Any:
    return getattr(place, name) if name in Environment.model_fields else place.libraries.get(name)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
