"""Where a line's peak memory goes: what it holds whatever the batch, and what a step adds to it."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.summary import Frames
from bench.results.identity import Line
from bench.results.schema import Record
from bench.results.store import LoadedRun
from reports import numbers, words
from reports.document import Section
from reports.tables import Cell, Column, grouped, without_empty

PLACE = 30

KEPT = "Kept between steps"
COLUMNS = (
    Column("Method", numeric=False),
    Column("Peak"),
    Column("of e2e's", "%"),
    Column("Weights and optimizer"),
    Column("The rest of the peak"),
    Column("of e2e's", "%"),
    Column(KEPT),
)
LIMIT = 200
NOTE = (
    "Weights and optimizer state are there whatever the batch; the rest of the peak is activations, gradients, "
    "encodings or states kept between steps, and workspace. Peaks are those of torch's CUDA allocator; what a method "
    "keeps on the host is not in them."
)

Peaks = tuple[float, float, float | None]
"""Peak, fixed and kept bytes of a line, medians over its blocks."""


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

    def row(line: Line) -> tuple[str, tuple[Cell, ...]]:
        first = lines[line][0]
        reference = peaks.get(Line(line.setting, REFERENCE))
        return words.case(words.row_of(first)), _row(first.label, peaks[line], reference)

    table = without_empty(grouped(COLUMNS, lines, row, LIMIT), KEPT)
    return Section("memory", "Where memory goes", (NOTE,), (table,), "Memory")


def _peaks(own: Iterable[Record]) -> Peaks:
    records = list(own)
    peak = median(record.peak_memory_bytes.allocated or 0 for record in records)
    kept = [record.detail.kept_bytes for record in records if record.detail.kept_bytes]
    return peak, median(record.fixed_memory_bytes or 0 for record in records), median(kept) if kept else None


def _row(label: str, peaks: Peaks, reference: Peaks | None) -> tuple[Cell, ...]:
    peak, fixed, kept = peaks
    rest = peak - fixed
    theirs, theirs_rest = (reference[0], reference[0] - reference[1]) if reference else (0.0, 0.0)
    return (
        Cell(label, "strong"),
        Cell(numbers.gibibytes(peak)),
        Cell(numbers.number(100 * peak / theirs, 2) if theirs > 0 else numbers.MISSING),
        Cell(numbers.gibibytes(fixed)),
        Cell(numbers.gibibytes(rest)),
        Cell(numbers.number(100 * rest / theirs_rest, 2) if theirs_rest > 0 else numbers.MISSING),
        Cell(numbers.gibibytes(kept)),
    )
