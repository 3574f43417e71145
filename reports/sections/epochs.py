"""An epoch of each log, projected from measured steps, next to what the paper reports where it has the same log."""

from bench.results.analysis.epochs import Epoch, epochs
from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.summary import Frames
from bench.results.identity import line_of
from bench.results.store import LoadedRun
from reports import numbers, words
from reports.document import Section
from reports.quality import paper
from reports.table import Cell, Column, Row, grouped, ratio_cell, text

PLACE = 40

LIMIT = 200
BASES = {"steps": "its own steps", "model": "a shorter interval"}


def make(run: LoadedRun, derived: Frames) -> Section | None:
    """None where no measured log has epochs."""
    found = epochs(run.records)
    if not found:
        return None
    rows = {line_of(row): row for row in derived.summary.to_dict("records")}
    columns = (
        text("Method", lambda each: Cell(each.label, "strong")),
        Column("Repetition ratio", lambda each: numbers.number(each.item_repetition_ratio), "of one batch"),
        Column("Steps", lambda each: numbers.number(each.steps, 1), "per epoch"),
        Column("Epoch", lambda each: numbers.duration(each.seconds, each.scatter), "projected"),
        Column("Against e2e's epoch", lambda each: _speed_up(each, rows.get(each.record.line))),
        Column("In the paper", _in_the_paper, "to convergence"),
        text("Gradient", lambda each: Cell(each.exactness, "badge")),
        text("Projected from", lambda each: Cell(BASES[each.basis], note=_timed(each))),
    )
    table = grouped(columns, found, LIMIT, lambda each: words.case(words.row_of(each.record)))
    return Section("epochs", "What an epoch would take", tuple(_notes(found)), (table,), "Epochs")


def _in_the_paper(each: Epoch) -> Cell:
    theirs = paper.speed_up(each.record.case.get("workload"), each.label)
    return Cell(numbers.times(theirs) if theirs else numbers.MISSING, "muted")


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
