"""Which encoder ran how: by which tier of the engine or a method's own way, why by no faster one, and how fast."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.summary import SINGLE_STEP, Frames, utilisation
from bench.results.analysis.tiers import ran
from bench.results.detail import BuiltDetail
from bench.results.schema import Record
from bench.results.store import LoadedRun
from bench.results.training import TrainingPoint
from reports import numbers, words
from reports.document import Section
from reports.table import Cell, Column, Table, group, text
from reports.tables import MFU

PLACE = 12
NOTE = (
    "The fast engine takes the fastest tier that leaves, on a few of the case's own texts, the encodings and gradients "
    "that the model's own forward pass leaves: packed (a pass written for the family, without padding), general (the "
    "model's own code, without padding), padded (texts of like length together) or the encoder as it was given, as the "
    "engine eager runs it. What a method runs instead of the engine's encoder is called its own."
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
        encoder = f"{words.encoder({'layers': None, **each.case})} · {numbers.plain(each.case.get('precision'))}"
        key = each.engine, way.tier or "", way.why or ("the fastest" if way.tier else "")
        found.setdefault(encoder, {}).setdefault(key, []).append(each)
    if not any(tier for rows in found.values() for _, tier, _ in rows):
        return ()
    groups = tuple(
        group(COLUMNS, encoder, (_Row(*key, own) for key, own in rows.items())) for encoder, rows in found.items()
    )
    return (Table(COLUMNS, groups).without_empty("Pooling", "Time per step", MFU),)


@dataclass(frozen=True)
class _Row:
    """What an engine ran alike, by which tier, and why by no faster one."""

    engine: str
    tier: str
    why: str
    own: Sequence[Ended]

    @cached_property
    def methods(self) -> dict[str, None]:
        """Labels."""
        return dict.fromkeys(each.label for each in self.own)

    @cached_property
    def label(self) -> str:
        """Whose time represents the row."""
        return next((name for name in TELLING if name in self.methods), next(iter(self.methods)))

    @cached_property
    def cases(self) -> list[tuple[list[Record], float]]:
        """Its records by case, and their time."""
        cases = _cases(each for each in self.own if isinstance(each, Record) and each.label == self.label)
        return [(records, median(median(record.samples_s) for record in records)) for records in cases]


def _time(row: _Row) -> Cell:
    times = sorted(time for _, time in row.cases)
    whose = [row.label] * (len(row.methods) > 1) + [numbers.count(len(times), "case")] * (len(times) > 1)
    return Cell(_from_to([numbers.milliseconds(each) for each in times]), note=", ".join(whose) if times else "")


def _shares(row: _Row) -> str:
    shares = sorted(share for records, time in row.cases if (share := _utilisation(records, time)))
    return _from_to([numbers.percentage(each) for each in shares])


def _poolings(row: _Row) -> str:
    return words.listing(dict.fromkeys(filter(None, (_pooling(each.detail) for each in row.own)))) or numbers.MISSING


COLUMNS = (
    text("Engine", lambda row: row.engine),
    text("Tier", lambda row: row.tier or numbers.MISSING),
    text("Methods", lambda row: Cell(words.listing(row.methods), "prose")),
    text("Pooling", _poolings),
    Column("Time per step", _time, "ms"),
    Column(MFU, _shares, "%"),
    text("Why no faster tier", lambda row: Cell(row.why, "prose")),
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
        return numbers.MISSING
    return ascending[0] if ascending[0] == ascending[-1] else f"{ascending[0]} to {ascending[-1]}"


def _pooling(detail: BuiltDetail) -> str:
    encoding = detail.encoding
    if encoding is None or not encoding.pooling:
        return ""
    return f"{encoding.pooling}{', normalised' if encoding.normalised else ''}"
