"""Takes the measurements of a run: one fresh worker process each, every outcome recorded, nothing taken twice.

One process at a time here; paired blocks, in which processes take turns, are `bench.running.paired`'s.
Records are on the disk before the next worker starts, so that a run may end at any moment, by Ctrl-C, a full disk or
a lost machine; calling `run` again finishes it.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.configuration.config import Config
from bench.configuration.sweep import WorkItem
from bench.processes.messages import Job
from bench.results import store
from bench.running import oom_pruning, paired
from bench.running.block import Seat
from bench.running.eta import Pace
from bench.running.events import Event, Finished, Planned, Started
from bench.running.recording import write
from bench.worker.records import failed_record


def run(config: Config, run_dir: Path, items: Sequence[WorkItem], on_event: Callable[[Event], None]) -> None:
    """Measures every item that `run_dir` has no record of, and records each outcome there.

    An item counts as recorded whatever became of it. Raises BenchError where a record cannot be written or a worker
    cannot be ended, KeyboardInterrupt on Ctrl-C; in each case everything finished before is on the disk and no worker
    is left.
    """
    if config.run.paired:
        paired.run(config, run_dir, items, on_event)
        return
    records = list(store.load(run_dir).records)
    recorded = {record.key for record in records}
    todo = [item for item in dict.fromkeys(items) if item.key not in recorded]
    pace = Pace()
    on_event(Planned(len(todo), len(set(items)) - len(todo)))
    for number, item in enumerate(todo, start=1):
        job, began = Job(config, item), time.monotonic()
        observed = oom_pruning.observed_out_of_memory(item, records)
        if observed is None:
            on_event(Started(item, number, len(todo), pace.remaining_s(todo[number - 1 :])))
            with Seat(job, on_event) as seat:
                record = seat.run()
            took_s = time.monotonic() - began
            pace.took(item, took_s)
        else:
            record = failed_record(job, oom_pruning.of_observation(observed, item), observed.exactness)
            took_s = 0.0
        write(run_dir, record)
        records.append(record)
        on_event(Finished(item, record, number, len(todo), took_s, pace.remaining_s(todo[number:])))
