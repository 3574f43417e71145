"""What differs between two results: logs and encoders by the hashes of their content, places and settings in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.results.schema import Environment, Inputs, LineFields, Parts, RunInfo, RunInputs

Kind = Literal["log", "encoder"]
SHOWN = 12
"""Digits of a hash that tell two apart for a reader."""


@dataclass(frozen=True)
class Changed:
    """A log or an encoder that is another one under the same name, and which parts of it are."""

    kind: Kind
    name: str
    then: Parts
    now: Parts

    @property
    def parts(self) -> tuple[str, ...]:
        """Those whose content differs, or that only one has."""
        parts = dict.fromkeys((*self.then, *self.now))
        return tuple(part for part in parts if self.then.get(part) != self.now.get(part))

    @property
    def subject(self) -> str:
        """`the log of table`."""
        return _subject(self.kind, self.name)

    def __str__(self) -> str:
        hashes = (f"{part} {_short(self.then.get(part))} and {_short(self.now.get(part))}" for part in self.parts)
        return f"{self.subject} (SHA-256 of {', '.join(hashes)})"


def known(info: RunInfo, measured: Iterable[LineFields]) -> RunInputs:
    """What a run holds measurements of: as it was started with, completed by what its records tell."""
    recorded = known_of(measured)
    logs = recorded.logs | {name: parts for name, parts in info.inputs.logs.items() if parts}
    encoders = recorded.encoders | {name: parts for name, parts in info.inputs.encoders.items() if parts}
    return RunInputs(logs=logs, encoders=encoders)


def known_of(measured: Iterable[LineFields]) -> RunInputs:
    """What records tell: of every workload and encoder that one of them knows."""
    logs: dict[str, list[Inputs]] = {}
    encoders: dict[str, list[Inputs]] = {}
    for each in measured:
        if each.inputs.log:
            logs.setdefault(str(each.case["workload"]), []).append(each.inputs)
        if each.inputs.encoder:
            encoders.setdefault(str(each.case["encoder"]), []).append(each.inputs)
    return RunInputs(
        logs={name: joined(found).log for name, found in logs.items()},
        encoders={name: joined(found).encoder for name, found in encoders.items()},
    )


def changed(then: RunInputs, now: RunInputs) -> list[Changed]:
    """Every log and encoder that both know, and that is another one."""
    return [
        Changed(kind, name, before[name], after[name])
        for kind, before, after in _both(then, now)
        for name in before
        if before[name] and after.get(name) and before[name] != after[name]
    ]


def unknown(then: RunInputs, now: RunInputs) -> list[str]:
    """Logs and encoders that only one of the two knows, so that nobody can tell whether they are the same."""
    return [
        _subject(kind, name)
        for kind, before, after in _both(then, now)
        for name in dict.fromkeys((*before, *after))
        if bool(before.get(name)) != bool(after.get(name))
    ]


def of_lines(pairs: Iterable[tuple[LineFields, LineFields]]) -> tuple[list[Changed], list[str]]:
    """What differs between lines of two results, pair by pair, and of what no pair tells; each named once.

    A line that failed may know nothing of what its neighbours were measured on.
    """
    different: dict[tuple[Kind, str], Changed] = {}
    both_know: dict[tuple[Kind, str], bool] = {}
    for then, now in pairs:
        before, after = _of(then), _of(now)
        for each in changed(before, after):
            different.setdefault((each.kind, each.name), each)
        for kind, thens, nows in _both(before, after):
            for name, parts in nows.items():
                both_know[kind, name] = both_know.get((kind, name), False) or bool(parts and thens.get(name))
    return list(different.values()), [_subject(*each) for each, known in both_know.items() if not known]


def joined(inputs: Iterable[Inputs]) -> Inputs:
    """What several records of one line were measured on; where they do not agree, a part holds all its hashes."""
    found = list(inputs)
    return Inputs(log=_joined(each.log for each in found), encoder=_joined(each.encoder for each in found))


def renamed(then: Mapping[str, Parts], now: Mapping[str, Parts]) -> dict[str, str]:
    """Names of `then` that `now` does not have, each with the one that holds the same content there."""
    free = {name: parts for name, parts in now.items() if name not in then and parts}
    found: dict[str, str] = {}
    for name, parts in then.items():
        same = [other for other in free if free[other] == parts] if name not in now else []
        if parts and len(same) == 1:
            found[name] = same[0]
    return found


def _subject(kind: Kind, name: str) -> str:
    return f"the log of {name}" if kind == "log" else f"the encoder {name}"


def _of(line: LineFields) -> RunInputs:
    return RunInputs(
        logs={str(line.case["workload"]): line.inputs.log}, encoders={str(line.case["encoder"]): line.inputs.encoder}
    )


def _both(then: RunInputs, now: RunInputs) -> Sequence[tuple[Kind, dict[str, Parts], dict[str, Parts]]]:
    return (("log", then.logs, now.logs), ("encoder", then.encoders, now.encoders))


def _joined(several: Iterable[Parts]) -> Parts:
    hashes: dict[str, dict[str, None]] = {}
    for parts in several:
        for part, value in parts.items():
            hashes.setdefault(part, {})[value] = None
    return {part: "+".join(values) for part, values in hashes.items()}


def _short(value: str | None) -> str:
    return "none" if value is None else "+".join(each[:SHOWN] for each in value.split("+"))


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
