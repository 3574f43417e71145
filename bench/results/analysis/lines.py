"""One line of a case over all its blocks: how it ended, how fast against e2e and how surely, at what memory.

What the gate judges, what a reference keeps, and what two runs are compared by.
"""

from collections.abc import Iterable, Sequence
from statistics import median

from bench.results import differences
from bench.results.analysis.stats import REFERENCE, Estimate, compared, middle
from bench.results.identity import AxisValue, Line, case_title
from bench.results.schema import LineFields, Outcome, PeakMemory, Record

SAME_RATIO = 0.02
"""Relative: repetition ratios this near are the same."""
WORST_FIRST: tuple[Outcome, ...] = ("error", "timeout", "oom", "skipped", "ok")


class LineResult(LineFields):
    """A method on a case. The outcome is the worst of its blocks: one that fails now and then fails."""

    outcome: Outcome
    reason: str | None = None
    """Of the first block that ended so."""
    blocks: int
    failed_blocks: int = 0
    speed_up: Estimate | None = None
    """Against e2e of the same case and setting; None for e2e itself, and where the two share no measured block."""
    item_repetition_ratio: float | None = None
    """Realised; the median over blocks."""
    median_s: float | None = None
    """Seconds per step; shown, never judged."""
    peak_memory_bytes: PeakMemory = PeakMemory()
    """Medians over blocks."""

    @property
    def case_title(self) -> str:
        """Case and setting in one line."""
        setting = [self.engine, *([f"dropout {self.dropout}"] if self.dropout != "off" else [])]
        return f"{case_title(self.case)} ({', '.join(setting)})"

    @property
    def title(self) -> str:
        """Case, setting and method in one line."""
        return f"{self.case_title} · {self.label}"

    def fact(self, name: str) -> AxisValue:
        """An axis of the case or a column of the line by its name."""
        if name in self.case:
            return self.case[name]
        value: AxisValue = getattr(self, name, None)
        return value


def lines(records: Iterable[Record]) -> tuple[LineResult, ...]:
    """Every line of a run, in the order it was first recorded; the canary's replica is none."""
    found: dict[Line, list[Record]] = {}
    for record in records:
        if record.replica == 0:
            found.setdefault(record.line, []).append(record)
    return tuple(_line(own, found.get(Line(line.setting, REFERENCE), ())) for line, own in found.items())


def under_names_of(then: Sequence[LineResult], now: Sequence[LineResult]) -> tuple[LineResult, ...]:
    """The lines `then`, each encoder under the name that the same content has `now`: a folder may have moved."""
    before, after = (differences.known_of(several).encoders for several in (then, now))
    names = differences.renamed(before, after)

    def renamed(line: LineResult) -> LineResult:
        encoder = str(line.case.get("encoder"))
        case = {**line.case, "encoder": names.get(encoder, line.case.get("encoder"))}
        return line.model_copy(update={"case": case}) if encoder in names else line

    return tuple(map(renamed, then))


def input_changes(then: LineResult, now: LineResult, thens: str) -> list[str]:
    """How the input of two results of a line differs: other content, or batches that repeat items otherwise.

    thens: whose the earlier one is, "the reference's".
    """
    different, _ = differences.of_lines([(then, now)])
    changes = [f"{each.subject} is another one" for each in different]
    before, after = then.item_repetition_ratio, now.item_repetition_ratio
    if before is not None and after is not None and abs(after / before - 1) > SAME_RATIO:
        changes.append(f"its batches repeat items {after:.3g} times, {thens} {before:.3g} times")
    return changes


def _line(records: Sequence[Record], reference: Sequence[Record]) -> LineResult:
    first = records[0]
    worst = min(records, key=lambda record: WORST_FIRST.index(record.outcome))
    measured = [record for record in records if record.outcome == "ok"]
    ratio = middle(record.item_repetition_ratio for record in measured)
    return LineResult(
        case=first.case,
        method=first.method,
        engine=first.engine,
        accumulation_steps=first.accumulation_steps,
        dropout=first.dropout,
        padding=first.padding,
        optimizer=first.optimizer,
        inputs=differences.joined(record.inputs for record in records),
        outcome=worst.outcome,
        reason=worst.reason,
        blocks=len(records),
        failed_blocks=len(records) - len(measured),
        speed_up=None if first.method == REFERENCE else compared(reference, records),
        item_repetition_ratio=ratio,
        median_s=middle(median(record.samples_s) for record in measured if record.samples_s),
        peak_memory_bytes=PeakMemory(
            **{kind: _whole(measured, kind) for kind in ("allocated", "reserved", "process")},
        ),
    )


def _whole(measured: Sequence[Record], kind: str) -> int | None:
    value = middle(getattr(record.peak_memory_bytes, kind) for record in measured)
    return None if value is None else round(value)
