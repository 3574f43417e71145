"""Where a line's peak memory goes: what it holds whatever the batch, and what a step adds to it."""

from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from bench.results.analysis import stats
from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.summary import Frames
from bench.results.identity import Line
from bench.results.schema import Record
from bench.results.store import LoadedRun
from reports import numbers, words
from reports.document import Section
from reports.table import Cell, Column, grouped, text

PLACE = 30

KEPT = "Kept between steps"
LIMIT = 200
NOTE = (
    "Weights and optimizer state are there whatever the batch; the rest of the peak is activations, gradients, "
    "encodings or states kept between steps, and workspace. Peaks are those of torch's CUDA allocator; what a method "
    "keeps on the host is not in them."
)

Peaks = tuple[float, float, float | None]
"""Peak, fixed and kept bytes of a line, medians over its blocks."""


class _Compared(NamedTuple):
    """Bytes of a line, of one of whose blocks the record is, and of its e2e, 0 where that was not measured."""

    record: Record
    peak: float
    fixed: float
    kept: float | None
    e2e_peak: float
    e2e_fixed: float


def _part(own: float, theirs: float) -> str:
    return numbers.number(100 * own / theirs, 2) if theirs > 0 else numbers.MISSING


COLUMNS = (
    text("Method", lambda each: Cell(each.record.label, "strong")),
    Column("Peak", lambda each: numbers.gibibytes(each.peak)),
    Column("of e2e's", lambda each: _part(each.peak, each.e2e_peak), "%"),
    Column("Weights and optimizer", lambda each: numbers.gibibytes(each.fixed)),
    Column("The rest of the peak", lambda each: numbers.gibibytes(each.peak - each.fixed)),
    Column("of e2e's", lambda each: _part(each.peak - each.fixed, each.e2e_peak - each.e2e_fixed), "%"),
    Column(KEPT, lambda each: numbers.gibibytes(each.kept)),
)


def make(run: LoadedRun, derived: Frames) -> Section | None:
    """None where no device tells of its allocator: a process's resident peak holds interpreter and libraries too."""
    lines: dict[Line, list[Record]] = {}
    for record in run.records:
        known = record.peak_memory_bytes.allocated is not None and record.fixed_memory_bytes is not None
        if record.outcome == "ok" and record.replica == 0 and known:
            lines.setdefault(record.line, []).append(record)
    if not lines:
        return None
    peaks = {line: _peaks(own) for line, own in lines.items()}

    compared = [
        _Compared(lines[line][0], *own, *(peaks.get(Line(line.setting, REFERENCE)) or (0.0, 0.0, None))[:2])
        for line, own in peaks.items()
    ]
    table = grouped(COLUMNS, compared, LIMIT, lambda each: words.case(words.row_of(each.record))).without_empty(KEPT)
    return Section("memory", "Where memory goes", (NOTE,), (table,), "Memory")


def _peaks(own: Iterable[Record]) -> Peaks:
    records = list(own)
    peak = median(record.peak_memory_bytes.allocated or 0 for record in records)
    kept = stats.middle(record.detail.kept_bytes or None for record in records)
    return peak, median(record.fixed_memory_bytes or 0 for record in records), kept
