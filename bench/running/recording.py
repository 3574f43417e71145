"""The way of measurements onto the disk, whatever order they are taken in, and what the harness cost besides."""

import contextlib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.inputs import contents
from bench.processes.signals import held_back
from bench.progress import count
from bench.results import store
from bench.results.schema import Record


def overhead(records: Iterable[Record]) -> str | None:
    """What the harness itself cost, in one sentence; None where no record tells."""
    seconds = [record.overhead_s for record in records if record.overhead_s is not None]
    if not seconds:
        return None
    usual, most = statistics.median(seconds), max(seconds)
    processes = count(len(seconds), "process", "processes")
    return f"Besides its set-up and steps a process took {usual:.2f} s, at most {most:.2f} s ({processes})."


def write(run_dir: Path, record: Record) -> None:
    """Puts a record on the disk; raises BenchError, which says how to go on, where that can't be, and UsageError for
    one that was measured on another log or encoder than the run."""
    contents.check_measured(run_dir, [record])
    with held_back(), _explaining_how_to_go_on(run_dir):
        store.append(run_dir, record)


def write_block(run_dir: Path, records: Sequence[Record]) -> tuple[Record, ...]:
    """Puts a block's records on the disk, all or none, and returns them as they are there; raises as `write` does."""
    contents.check_measured(run_dir, records)
    with held_back(), _explaining_how_to_go_on(run_dir):
        return store.append_block(run_dir, records)


@contextlib.contextmanager
def _explaining_how_to_go_on(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except store.UnwritableResults as error:
        raise BenchError(f"{error} `gram-bench resume {run_dir}` takes the remaining measurements.") from error
