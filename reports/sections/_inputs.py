"""What encoders and workloads say of themselves in their records' details, and what of a log was left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.results.analysis import left_out
from bench.results.schema import Record
from bench.results.training import TrainingPoint
from reports import numbers, words
from reports.document import Story

_WHAT = "what"
"""The name under which a description that is one sentence is compared."""
_NOTES = "notes"
"""Sentences at the top of the page."""
_AXES = ("cf_module", "text_length", "history_length", "batch_size", "item_repetition_ratio", "world_size", "precision")
"""Of a case, the first to ask whether a fact depends on them."""

FEW_VALUES = 4
"""Of one fact, written out; more numbers are a range."""

Entry = tuple[Mapping[str, Any], Mapping[str, Any]]
"""A case, and what a record of it says of an encoder or a workload."""


def inputs(records: Iterable[Record | TrainingPoint]) -> list[tuple[str, str]]:
    """Names and facts: those that hold in all records, then those of some, by the axis that they depend on."""
    found: dict[str, list[Entry]] = {}
    for record in records:
        for kind, name in _names(record):
            said = getattr(record.detail, kind)
            facts = said if isinstance(said, Mapping) else {_WHAT: said}
            found.setdefault(name, []).append((record.case, facts))
    lines = []
    for name, entries in found.items():
        for where, facts in _by_axis(entries):
            if text := _listed(facts):
                lines.append((f"{name}, {where}" if where else name, text))
    return lines


def with_left_out(story: Story, records: Iterable[Record | TrainingPoint]) -> Story:
    """The top of a page, which also tells what was left out."""
    return replace(story, sentences=(*story.sentences, *left_out_of(records)))


def left_out_of(records: Iterable[Record | TrainingPoint]) -> tuple[str, ...]:
    """A sentence for whatever of a log was left out, of which there is more than a few."""
    found: dict[str, list[Entry]] = {}
    for record in records:
        facts = record.detail.workload
        if isinstance(facts, Mapping):
            found.setdefault(numbers.plain(record.case.get("workload")), []).append((record.case, facts))
    found_once: dict[str, None] = {}
    for name, entries in found.items():
        whole = [(case, {sentence: True for sentence in left_out.sentences(name, facts)}) for case, facts in entries]
        for where, sentences in _by_axis(whole):
            found_once |= {f"With {where}, {sentence}" if where else sentence: None for sentence in sentences}
    return tuple(found_once)


def _names(record: Record | TrainingPoint) -> list[tuple[str, str]]:
    case = record.case
    names = {
        "encoder": words.encoder({"layers": None, **case}),
        "workload": numbers.plain(case.get("workload")),
    }
    return [(kind, name) for kind, name in names.items() if getattr(record.detail, kind) is not None]


def _by_axis(entries: Sequence[Entry]) -> list[tuple[str, dict[str, Any]]]:
    """Facts that all agree on under an empty name, and others by a case's axis and value; none is lost.

    A fact that no single axis explains is given with every value that it has.
    """
    groups: dict[str, dict[str, Any]] = {"": {}}
    for fact in dict.fromkeys(name for _, facts in entries for name in facts):
        values = _distinct(facts.get(fact) for _, facts in entries)
        if len(values) == 1:
            groups[""][fact] = values[0]
            continue
        axis = next((axis for axis in _axes(entries) if _explains(axis, fact, entries)), None)
        if axis is None:
            groups[""][fact] = _Several([value for value in values if value is not None])
            continue
        for case, facts in entries:
            if fact in facts:
                where = f"{axis.replace('_', ' ')} {numbers.plain(case.get(axis))}"
                groups.setdefault(where, {})[fact] = facts[fact]
    return [(where, facts) for where, facts in groups.items() if facts]


def _axes(entries: Sequence[Entry]) -> list[str]:
    names = dict.fromkeys(axis for case, _ in entries for axis in case)
    return [*(axis for axis in _AXES if axis in names), *(axis for axis in names if axis not in _AXES)]


def _explains(axis: str, fact: str, entries: Sequence[Entry]) -> bool:
    """Whether the fact is one value for each value of the axis."""
    found: dict[Any, list[Any]] = {}
    for case, facts in entries:
        found.setdefault(case.get(axis), []).append(facts.get(fact))
    return len(found) > 1 and all(len(_distinct(values)) == 1 for values in found.values())


def _distinct(values: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept


class _Several(list[Any]):
    """Values that one fact has in different records."""


def _listed(facts: Mapping[str, Any]) -> str:
    """In one line; what counts nothing is not in it."""
    parts = [
        _text(value) if name == _WHAT else f"{_name(str(name))} {_text(value)}"
        for name, value in facts.items()
        if name != _NOTES and value not in ({}, [], "")
    ]
    return ", ".join(parts)


def _name(key: str) -> str:
    """A key as words; a reason is words already, and may name a setting."""
    return key.replace("_", " ") if key.isidentifier() else key


def _text(value: Any) -> str:
    if isinstance(value, _Several):
        if len(value) > FEW_VALUES and all(isinstance(each, int | float) for each in value):
            return f"{_text(min(value))} to {_text(max(value))}"
        more = f" or one of {len(value) - FEW_VALUES} more" if len(value) > FEW_VALUES else ""
        return " or ".join(_text(each) for each in value[:FEW_VALUES]) + more
    if isinstance(value, Mapping):
        return _listed(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
