"""Against the peers: every other method on the same batches, what each costs, and where one of them wins.

Shown where a run holds a method besides the references and ours. Which those are is listed nowhere: whatever else was
measured is a peer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from bench.results.analysis import stats
from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.summary import SINGLE_STEP, UNIQUE_REFERENCE, Frames
from bench.results.identity import Line, line_of
from bench.results.schema import Record
from bench.results.store import LoadedRun
from reports import numbers, words
from reports.document import Section
from reports.sections import _limitations
from reports.table import Cell, Column, Group, Row, Table, gradient, group, outcome, rate, step_time, text

PLACE = 20

MULTI_STEP = "multi_step"
OURS = (REFERENCE, UNIQUE_REFERENCE, SINGLE_STEP, MULTI_STEP)
KINDS = ("exact", "stale", "other-model")
LEVEL = 0.03
"""What counts as level where no interval tells."""
LIMIT = 400
"""Lines that the tables show."""


def _against_ours(row: Row) -> Cell:
    spread = numbers.ratio_range(row["against_single_step_low"], row["against_single_step_high"])
    itself = row["method"] == SINGLE_STEP
    return Cell(numbers.speed_up(row, "against_single_step"), "muted" if itself else "", "" if itself else spread)


COLUMNS = (
    text("Method", lambda row: Cell(row["label"], "" if row["method"] in (REFERENCE, UNIQUE_REFERENCE) else "strong")),
    text("Gradient", gradient),
    Column("Time per step", step_time, "ms"),
    Column("Speed against single_step", _against_ours, "95 % interval"),
    Column("Speed-up against e2e", numbers.speed_up),
    Column("Item slots", rate("item_slots_per_s"), "per s"),
    Column("Peak memory", lambda row: numbers.gibibytes(row["memory_bytes"])),
    Column("of single_step's", lambda row: numbers.percentage(_memory_share(row, row["ours"])), "%"),
    text("Outcome", outcome),
)


def make(run: LoadedRun, derived: Frames) -> Section | None:
    """None where no peer is in the run."""
    if set(derived.summary["method"]) <= set(OURS):
        return None
    rows: list[Row] = derived.summary.to_dict("records")
    cases = _cases(rows)
    tables = (*_tables(cases), *_limitations.table((record.method, record.detail) for record in run.records))
    return Section("peers", "Against the peers", tuple(_verdicts(cases, _Blocks(run.records))), tables, "Peers")


Compared = tuple[float, float | None, float | None]
"""A ratio, and the interval that it lies in where several blocks were measured."""


class _Blocks:
    """The records of each line, to compare any two of a case block by block."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._lines: dict[Line, list[Record]] = {}
        for record in records:
            if not record.replica:
                self._lines.setdefault(record.line, []).append(record)

    def speed(self, row: Row, own: Row) -> Compared | None:
        """How many times as fast as ours."""
        found = stats.compared(*(self._lines.get(line_of(each), []) for each in (own, row)))
        return None if found is None else (found.value, *(found.interval or (None, None)))


def _cases(rows: Iterable[Row]) -> list[list[Row]]:
    """The lines of each case and engine that hold a peer."""
    found = words.by_case(rows).values()
    return [lines for lines in found if any(row["method"] not in OURS for row in lines)]


def _tables(cases: Sequence[Sequence[Row]]) -> Iterator[Table]:
    """One table per setting, one group per case, exact methods first and the fastest of each kind on top."""
    settings: dict[str, list[Group]] = {}
    shown = 0
    for lines in cases:
        if shown + len(lines) > LIMIT:
            break
        shown += len(lines)
        ours = _line(lines, SINGLE_STEP)
        ordered = sorted(lines, key=lambda row: (KINDS.index(row["exactness"]), _or_last(row["median_s"])))
        ratio = numbers.number(next((row["item_repetition_ratio"] for row in lines if _measured(row)), None))
        title = f"{words.case(lines[0], with_setting=False)} · repetition ratio {ratio}"
        made = group(COLUMNS, title, ({**row, "ours": ours} for row in ordered), f"r {ratio}")
        settings.setdefault(words.setting(lines[0]), []).append(made)
    left_out = sum(map(len, cases)) - shown
    for place, (setting, groups) in enumerate(settings.items(), start=1):
        yield Table(COLUMNS, tuple(groups), title=setting, left_out=left_out if place == len(settings) else 0)


def _verdicts(cases: Sequence[Sequence[Row]], blocks: _Blocks) -> Iterator[str]:
    """Who wins, engine by engine: exact methods against single_step, stale ones against multi_step, then the bounds."""
    engines = dict.fromkeys(lines[0]["engine"] for lines in cases)
    for engine in engines:
        own = [lines for lines in cases if lines[0]["engine"] == engine]
        prefix = f"Engine {engine}. " if len(engines) > 1 else ""
        sentences = [
            _sentence("In time per step", own, "exact", SINGLE_STEP, blocks.speed),
            _sentence("In peak memory", own, "exact", SINGLE_STEP, _smallness),
            _sentence("In time per step", own, "stale", MULTI_STEP, blocks.speed),
            _sentence("In peak memory", own, "stale", MULTI_STEP, _smallness),
        ]
        yield from (prefix + sentence for sentence in sentences if sentence)
    if any(row["exactness"] == "stale" for lines in cases for row in lines):
        yield (
            "A step of a stale method is not worth an exact one: time per step ranks them by cost alone. Quality "
            "against time is what gram-bench train measures."
        )
    bounds = dict.fromkeys(row["label"] for lines in cases for row in lines if row["exactness"] == "other-model")
    if bounds:
        yield f"{words.listing(bounds)}: another model, a bound on the cost of encoder and texts, not a competitor."


def _sentence(
    measure: str,
    cases: Sequence[Sequence[Row]],
    kind: str,
    ours: str,
    compare: Callable[[Row, Row], Compared | None],
) -> str:
    """How often our method is first among those of its kind, and by whom it is beaten; empty where nothing compares."""
    first, level, beaten = 0, 0, []
    for lines in cases:
        own = _line(lines, ours)
        others = [row for row in lines if row["exactness"] == kind and row["method"] != ours and _measured(row)]
        compared = [(row, found) for row in others if own is not None and (found := compare(row, own)) is not None]
        if not compared:
            continue
        ahead = [(row, found) for row, found in compared if _who_leads(*found) > 0]
        if ahead:
            beaten.append(_beaten(lines, *max(ahead, key=lambda pair: pair[1][0])))
        elif any(_who_leads(*found) == 0 for _, found in compared):
            level += 1
        else:
            first += 1
    total = first + level + len(beaten)
    if not total:
        return ""
    parts = [f"{ours} is first in {first} of {numbers.count(total, 'case')}"]
    parts += [f"level with the first in {level}"] if level else []
    parts += [f"beaten in {len(beaten)}: {'; '.join(beaten)}"] if beaten else []
    return f"{measure}, among {kind} methods, {', '.join(parts)}."


def _beaten(lines: Sequence[Row], row: Row, found: Compared) -> str:
    value, low, high = found
    spread = numbers.ratio_range(low, high)
    place = f"{numbers.plain(row['workload'])} at ratio {numbers.number(row['item_repetition_ratio'])}"
    return f"by {row['label']} on {place} ({numbers.times(value, low, high)}{f', {spread}' if spread else ''})"


def _who_leads(value: float, low: float | None, high: float | None) -> int:
    """1: the other is ahead, -1: behind, 0: not distinguishable: by the interval if there is one, else within LEVEL."""
    lower, upper = (low, high) if low is not None and high is not None else (value / (1 + LEVEL), value * (1 + LEVEL))
    return 1 if lower > 1 else -1 if upper < 1 else 0


def _smallness(row: Row, own: Row) -> Compared | None:
    """How many times its memory ours takes."""
    share = _memory_share(row, own)
    return None if share is None else (1 / share, None, None)


def _memory_share(row: Row, own: Row | None) -> float | None:
    """Peak memory in parts of our method's; None where either is not known, or they are counted differently."""
    if own is None or not numbers.exists(row["memory_bytes"]) or row["memory_kind"] != own["memory_kind"]:
        return None
    return row["memory_bytes"] / own["memory_bytes"] if own["memory_bytes"] else None


def _line(lines: Iterable[Row], method: str) -> Row | None:
    """The fastest measured line of a method; several are intervals of different length."""
    found = [row for row in lines if row["method"] == method and _measured(row)]
    return min(found, key=lambda row: row["median_s"], default=None)


def _measured(row: Row) -> bool:
    return row["outcome"] == "ok" and numbers.exists(row["median_s"])


def _or_last(value: Any) -> float:
    return float(value) if numbers.exists(value) else float("inf")
