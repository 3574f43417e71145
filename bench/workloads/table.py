"""`table`: a log of your own, as two files: items (item_id, text), interactions (user_id, item_id, timestamp, label).

Ranking: an interaction whose label reaches `positive_from` is a click, the others are left out. Response prediction:
such a label is a right response, any other a wrong one.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.configuration.values import DataPath
from bench.workloads._base import Axes, Task, Workload, WorkloadRequest
from bench.workloads._io.dropped import Dropped
from bench.workloads._io.table_files import EMPTY, UNKNOWN, Numbers, check_format, read_interactions, read_items
from bench.workloads._log import interaction_log
from bench.workloads._log.external_sort import Repeats, Sorted, UserSort
from bench.workloads._log.real_log import StoredLog, check_axes, check_files, keep_texts, some_left, stored_log
from bench.workloads._sampling.epoch_sampler import LogSettings

ASSETS: tuple[str, ...] = ()
TAKES_REPETITION_RATIO = False
HOLDS_OUT = True
REAL_TEXTS = True


class Settings(LogSettings):
    """`[workload.table]`."""

    items: DataPath | None = None
    """Path of a .csv, .tsv or .parquet file with the columns item_id and text."""
    interactions: DataPath | None = None
    """The same with user_id, item_id, timestamp (a number or an ISO date) and label (a number)."""
    positive_from: float = 1.0
    """The least label of a click or of a right response."""
    repeated_rows: Repeats = "auto"
    """Rows equal to an earlier one in all four values: "drop" takes them for one event written twice, "keep" for
    several events; "auto" drops them unless times are coarse: a user's rows share one time, or few."""


def check(settings: Settings, axes: Axes) -> None:
    """Raises ValueError where a file is missing or of no format that can be read, or for an asked-for ratio."""
    check_axes("table", axes)
    check_files("table", items=settings.items, interactions=settings.interactions)
    for setting in ("items", "interactions"):
        check_format(getattr(settings, setting), f"workload.table.{setting}")


def prepare(settings: Settings, *, argument: str | None, task: Task, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Reads the files into the cache; raises MalformedData naming file and line. Returns what was left out."""
    return _log_of(settings, task).kept(lambda: say("reading table's files into the cache"))[1]


def build(settings: Settings, request: WorkloadRequest) -> Workload:
    """Raises ValueError as `check` does, where the encoder has no tokenizer or the log is too short for a batch, and
    MalformedData naming file and line."""
    check(settings, request)
    return stored_log(_log_of(settings, request.task), settings, request)


def contents(settings: Settings, argument: str | None) -> dict[str, Path | str]:
    """The two files."""
    return {"items": Path(str(settings.items)), "interactions": Path(str(settings.interactions))}


def _log_of(settings: Settings, task: Task) -> StoredLog:
    suffixes = tuple(Path(str(path)).suffix for path in (settings.items, settings.interactions))
    return StoredLog(
        "table",
        contents(settings, None),
        (suffixes, settings.positive_from, settings.repeated_rows, task),
        lambda folder: _write(settings, task, folder),
    )


def _write(settings: Settings, task: Task, folder: Path) -> dict[str, Any]:
    item_file, interaction_file = Path(str(settings.items)), Path(str(settings.interactions))
    numbers, texts, item_rows = read_items(item_file)
    dropped = Dropped("rows")
    items, users, sort = Numbers(numbers), Numbers(), UserSort(folder)
    for chunk in read_interactions(interaction_file):
        item, positive = items.of(chunk.items, grow=False), chunk.labels >= settings.positive_from
        reasons = {"item_id without a text": item == UNKNOWN, "item_id with an empty text": item == EMPTY}
        if task == "ranking":
            reasons["label below positive_from: no click"] = (item >= 0) & ~positive
        for reason, rows in reasons.items():
            if rows.any():
                first = int(rows.argmax())
                dropped.add(reason, int(rows.sum()), f'{chunk.place(first)}, item_id "{chunk.items[first]}"')
        kept_rows = (item >= 0) & (positive | (task == "response"))
        user = users.of(chunk.users, grow=True)
        sort.add(user[kept_rows], item[kept_rows], chunk.times[kept_rows], positive[kept_rows])
        dropped.read += len(chunk)
    with interaction_log.LogWriter(folder) as writer:
        done = sort.write(writer, settings.repeated_rows)
        writer.finish(len(texts))
    _add_sorted(dropped, done, users, items)
    some_left(dropped, str(interaction_file))
    keep_texts(folder, texts)
    notes = [_kept_repeats(done, dropped.read)] if done.repeated and done.kept else []
    return {**dropped.facts(), **item_rows.facts(), **({"notes": notes} if notes else {})}


def _add_sorted(dropped: Dropped, done: Sorted, users: Numbers, items: Numbers) -> None:
    """What the sort left out."""

    def example(kind: str) -> str:
        user, item = done.examples[kind]
        return f'user_id "{users.name(user)}", item_id "{items.name(item)}"'

    if not done.kept:
        dropped.add("duplicate row", done.repeated, lambda: example("repeated"))
    dropped.add("user with one interaction", done.alone, lambda: example("alone"))


def _kept_repeats(done: Sorted, read: int) -> str:
    why = "since times are coarse: a user's rows share one, or few" if done.coarse else 'since repeated_rows = "keep"'
    return (
        f"{done.repeated:,} of {read:,} rows equal an earlier one in all four values and were kept, {why}; "
        'workload.table.repeated_rows = "drop" drops them'
    )
