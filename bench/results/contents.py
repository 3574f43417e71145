"""Whether two results were measured on the same: logs and encoders, compared by the hashes of their content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bench.results.identity import AxisValue
from bench.results.schema import Inputs, Parts, RunInfo, RunInputs

Kind = Literal["log", "encoder"]
SHOWN = 12
"""Digits of a hash that tell two apart for a reader."""


class Measured(Protocol):
    """A record, a point of a training, or a line of a run."""

    @property
    def case(self) -> dict[str, AxisValue]:
        """Axis -> value."""
        ...

    @property
    def inputs(self) -> Inputs:
        """What it was measured on."""
        ...


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


def known(info: RunInfo, measured: Iterable[Measured]) -> RunInputs:
    """What a run holds measurements of: as it was started with, completed by what its records tell."""
    recorded = known_of(measured)
    logs = recorded.logs | {name: parts for name, parts in info.inputs.logs.items() if parts}
    encoders = recorded.encoders | {name: parts for name, parts in info.inputs.encoders.items() if parts}
    return RunInputs(logs=logs, encoders=encoders)


def known_of(measured: Iterable[Measured]) -> RunInputs:
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


def of_lines(pairs: Iterable[tuple[Measured, Measured]]) -> tuple[list[Changed], list[str]]:
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


def _of(line: Measured) -> RunInputs:
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
