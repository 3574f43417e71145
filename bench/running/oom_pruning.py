"""Which measurements are hopeless: those at least as large as one that was seen to run out of memory."""

from collections.abc import Iterable

from bench.configuration.case import Case
from bench.configuration.sweep import WorkItem
from bench.processes.failures import Failure
from bench.results.schema import Record

MEMORY_AXES = ("batch_size", "text_length", "history_length")
"""Memory grows with each of these."""
FIXED_AXES = ("workload", "encoder", "layers", "precision", "cf_module", "world_size", "deduplicate")
"""Cases that differ here are no larger and no smaller than each other."""


def observed_out_of_memory(item: WorkItem, records: Iterable[Record]) -> Record | None:
    """The record that makes `item` hopeless: the same line, out of memory on a case no larger. None if there is none.

    Only an outcome that was seen counts, never a skipped one: a chain of guesses would be no observation.
    """
    return next((record for record in records if record.outcome == "oom" and _covers(record, item)), None)


def of_observation(observed: Record, item: WorkItem) -> Failure:
    """Why `item` is not tried."""
    case = Case(**observed.case)  # type: ignore[arg-type] # a record's axes are a case's
    if case == item.case:
        return Failure("skipped", f"{item.line} ran out of memory on this case in block {observed.block}")
    return Failure("skipped", f"{item.line} ran out of memory on a case no larger: {case}")


def _covers(record: Record, item: WorkItem) -> bool:
    line, axes, seen = item.line, item.case.axes(), record.case
    return (
        (record.method, record.engine, record.accumulation_steps) == (line.method, line.engine, line.accumulation_steps)
        and all(axes[axis] == seen[axis] for axis in FIXED_AXES)
        and all(axes[axis] >= seen[axis] for axis in MEMORY_AXES)  # type: ignore[operator] # whole numbers
        and _repeats_no_more(axes["item_repetition_ratio"], seen["item_repetition_ratio"])
    )


def _repeats_no_more(asked: object, seen: object) -> bool:
    """Fewer repeats are more unique items. A log's own ratio (None) is comparable with itself only."""
    if isinstance(asked, int | float) and isinstance(seen, int | float):
        return asked <= seen
    return asked is None and seen is None
