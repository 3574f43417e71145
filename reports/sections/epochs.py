"""An epoch of each log, projected from measured steps, next to what the paper reports where it has the same log."""

from __future__ import annotations

from bench.results.analysis.epochs import Epoch, epochs
from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.summary import Frames
from bench.results.identity import line_of
from bench.results.store import LoadedRun
from reports import numbers, words
from reports.document import Section
from reports.quality import paper
from reports.tables import Cell, Column, Row, grouped, ratio_cell

PLACE = 40

COLUMNS = (
    Column("Method", numeric=False),
    Column("Repetition ratio", "of one batch"),
    Column("Steps", "per epoch"),
    Column("Epoch", "projected"),
    Column("Against e2e's epoch"),
    Column("In the paper", "to convergence"),
    Column("Gradient", numeric=False),
    Column("Projected from", numeric=False),
)
LIMIT = 200


def make(run: LoadedRun, derived: Frames) -> Section | None:
    """None where no measured log has epochs."""
    found = epochs(run.records)
    if not found:
        return None
    rows = {line_of(row): row for row in derived.summary.to_dict("records")}

    def row(each: Epoch) -> tuple[str, tuple[Cell, ...]]:
        line = rows.get(each.record.line) if each.basis == "steps" else None
        return words.case(words.row_of(each.record)), _row(each, line)

    table = grouped(COLUMNS, found, row, LIMIT)
    return Section("epochs", "What an epoch would take", tuple(_notes(found)), (table,), "Epochs")


def _row(each: Epoch, line: Row | None) -> tuple[Cell, ...]:
    theirs = paper.speed_up(each.record.case.get("workload"), each.label)
    return (
        Cell(each.label, "strong"),
        Cell(numbers.number(each.item_repetition_ratio)),
        Cell(numbers.number(each.steps, 1)),
        Cell(numbers.duration(each.seconds, each.scatter)),
        _speed_up(each, line),
        Cell(numbers.times(theirs) if theirs else numbers.MISSING, "muted"),
        Cell(each.exactness, "badge"),
        Cell("its own steps" if each.basis == "steps" else "a shorter interval", note=_timed(each)),
    )


def _timed(each: Epoch) -> str:
    """How many batches its steps were timed on, where its record says so."""
    detail = each.record.detail
    if not detail.timed_batches:
        return ""
    batches = numbers.count(detail.timed_batches, "batch", "batches")
    typical = f", the most typical of {detail.ratio_batches}" if detail.timed_typical else ""
    return f"{batches} of the log{typical}"


def _speed_up(each: Epoch, line: Row | None) -> Cell:
    """An epoch of as many steps of the line's own is as much sooner as a step is, with the same interval."""
    if each.basis == "steps" and each.of_batch is None and line is not None and line["speed_up_blocks"] > 1:
        return Cell("1.00" + numbers.TIMES, "muted") if each.method == REFERENCE else ratio_cell(line, "speed_up")
    lent = "" if each.of_batch is None else f"e2e at batch {each.of_batch}"
    return Cell(numbers.scattered(each.speed_up, each.scatter), "strong", note=lent)


def _notes(found: tuple[Epoch, ...]) -> list[str]:
    notes = [
        "A projection: the median step times the steps that an epoch of the whole log has; evaluation, and what "
        "changes as training goes on, are not in it. An epoch is not convergence: methods labelled stale may need more "
        "of them."
    ]
    if any(each.basis == "model" for each in found):
        notes.append(
            "Intervals of half an epoch and more are not waited for. A CF step that encodes nothing was timed by "
            "itself, and a shorter interval tells what an item costs that the encoder passes over; the long interval "
            "is taken to touch every item."
        )
    if any(paper.speed_up(each.record.case.get("workload"), each.label) for each in found):
        notes.append(
            "The paper's figures are wall-clock to convergence on A100s, against its own end-to-end code, which "
            "encodes each unique item once in knowledge tracing and every slot in news recommendation. They are not of "
            "these logs but of those whose sizes these have."
        )
    return notes
