"""Which encoder ran how: by which tier of the engine or a method's own way, why by no faster one, and how fast."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from statistics import median

from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.summary import SINGLE_STEP, Frames, utilisation
from bench.results.analysis.tiers import ran
from bench.results.detail import BuiltDetail
from bench.results.schema import Record
from bench.results.store import LoadedRun
from bench.results.training import TrainingPoint
from reports import words
from reports.document import Section
from reports.tables import MFU, Cell, Column, Group, Table, without_empty

PLACE = 12
NOTE = (
    "The fast engine takes the fastest tier that leaves, on a few of the case's own texts, the encodings and gradients "
    "that the model's own forward pass leaves: packed (a pass written for the family, without padding), general (the "
    "model's own code, without padding), padded (texts of like length together) or the encoder as it was given, as the "
    "engine eager runs it. What a method runs instead of the engine's encoder is called its own."
)

COLUMNS = (
    Column("Engine", numeric=False),
    Column("Tier", numeric=False),
    Column("Methods", numeric=False),
    Column("Pooling", numeric=False),
    Column("Time per step", "ms"),
    Column(MFU, "%"),
    Column("Why no faster tier", numeric=False),
)
TELLING = (SINGLE_STEP, REFERENCE)
"""Whose time represents a row's, first come first served; where neither is in it, its first method's."""

Ended = Record | TrainingPoint


def make(run: LoadedRun, derived: Frames) -> Section | None:
    """None where every engine of the run has one way only."""
    found = table(run.records)
    return Section("tiers", "Which encoder ran how", (NOTE,), found, "Tiers") if found else None


def table(ended: Iterable[Ended]) -> tuple[Table, ...]:
    """A row for each engine and tier of an encoder and a precision; none where no engine has a tier.

    What failed before it was known how its encoder runs is left out.
    """
    found: dict[str, dict[tuple[str, str, str], list[Ended]]] = {}
    for each in ended:
        way = ran(each)
        if way.tier is None and each.outcome not in ("ok", None):
            continue
        encoder = f"{words.encoder({'layers': None, **each.case})} · {words.plain(each.case.get('precision'))}"
        key = each.engine, way.tier or "", way.why or ("the fastest" if way.tier else "")
        found.setdefault(encoder, {}).setdefault(key, []).append(each)
    if not any(tier for rows in found.values() for _, tier, _ in rows):
        return ()
    groups = tuple(
        Group(encoder, tuple(_row(*key, own) for key, own in rows.items())) for encoder, rows in found.items()
    )
    return (without_empty(Table(COLUMNS, groups), "Pooling", "Time per step", MFU),)


def _row(engine: str, tier: str, why: str, own: Sequence[Ended]) -> tuple[Cell, ...]:
    methods = dict.fromkeys(each.label for each in own)
    label = next((name for name in TELLING if name in methods), next(iter(methods)))
    cases = _cases(each for each in own if isinstance(each, Record) and each.label == label)
    times = [median(median(record.samples_s) for record in records) for records in cases]
    shares = [share for records, time in zip(cases, times, strict=True) if (share := _utilisation(records, time))]
    whose = [label] * (len(methods) > 1) + [words.count(len(cases), "case")] * (len(cases) > 1)
    return (
        Cell(engine),
        Cell(tier or words.MISSING),
        Cell(words.listing(methods), "prose"),
        Cell(words.listing(dict.fromkeys(filter(None, (_pooling(each.detail) for each in own)))) or words.MISSING),
        Cell(_from_to([words.milliseconds(each) for each in sorted(times)]), note=", ".join(whose) if times else ""),
        Cell(_from_to([words.utilisation(each) for each in sorted(shares)])),
        Cell(why, "prose"),
    )


def _cases(records: Iterable[Record]) -> list[list[Record]]:
    """Measured records by case, their blocks together."""
    found: dict[Hashable, list[Record]] = {}
    for record in records:
        if record.outcome == "ok" and record.samples_s and not record.replica:
            found.setdefault(tuple(sorted(record.case.items())), []).append(record)
    return list(found.values())


def _utilisation(records: Iterable[Record], time: float) -> float | None:
    known = next((record for record in records if record.matrix_flops_per_s is not None), None)
    return None if known is None else utilisation({**dict(known), "median_s": time})


def _from_to(ascending: Sequence[str]) -> str:
    if not ascending:
        return words.MISSING
    return ascending[0] if ascending[0] == ascending[-1] else f"{ascending[0]} to {ascending[-1]}"


def _pooling(detail: BuiltDetail) -> str:
    encoding = detail.encoding
    if encoding is None or not encoding.pooling:
        return ""
    return f"{encoding.pooling}{', normalised' if encoding.normalised else ''}"
