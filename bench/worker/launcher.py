"""Starts the ranks of a measurement through torchrun's agent, and says how they failed where they did.

The agent is torch.distributed.run's own, entered through `torch.distributed.launcher.api`: it finds a free port, forks
the ranks, and ends them all when one ends early. This process never touches the device, so that forking is safe.
"""

import json
import tempfile
import uuid
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bench.configuration.config import RunSettings
from bench.methods import exactness, method_class
from bench.processes import failures
from bench.processes.failures import Failure
from bench.processes.messages import Job, Measured
from bench.results.schema import Record
from bench.worker.rank import RECORD, Task, member
from bench.worker.records import failed_record

RUN_ID = "gram-bench"
"""What ranks on several hosts meet under; on one host, where nobody else joins, it is never the same twice."""
ENDED_BY_THE_AGENT = -15


def lead(connection: Connection, job: Job, *, in_turns: bool) -> None:
    """Runs the job's ranks to their end; rank 0 talks through `connection`, and this process where they failed."""
    with tempfile.TemporaryDirectory(prefix="gram-bench-ranks-") as folder:
        try:
            launch(job.config.run, job.item.case.world_size, folder, member, connection, Task(job, in_turns), folder)
            connection.send(Measured(json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))["record"]))
        except ChildFailedError as error:
            connection.send(Measured(_record(job, Path(folder), error.failures).model_dump(mode="json")))
        except Exception as error:  # no rendezvous, say
            connection.send(Measured(_failed(job, failures.of_exception(error, "start")).model_dump(mode="json")))


def launch(run: RunSettings, size: int, folder: str, entry: Callable[..., None], *arguments: Any) -> None:
    """Runs entry(*arguments) in `size` processes to their end; raises ChildFailedError. folder: of the agent's logs."""
    elastic_launch(_config(run, size, folder), entry)(*arguments)


def _config(run: RunSettings, size: int, folder: str) -> LaunchConfig:
    alone = run.hosts == 1
    return LaunchConfig(
        min_nodes=run.hosts,
        max_nodes=run.hosts,
        nproc_per_node=size // run.hosts,
        run_id=uuid.uuid4().hex if alone else RUN_ID,
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint=run.rendezvous if run.hosts > 1 else "localhost:0",
        rdzv_configs={} if alone else {"rank": 0},
        local_addr="localhost" if alone else None,
        max_restarts=0,
        monitor_interval=0.1,
        start_method="fork",
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )


def _record(job: Job, folder: Path, ended: Mapping[int, ProcessFailure]) -> Record:
    """The failure that explains the others: memory that ran out, else a rank that was killed, else the earliest."""
    left = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.failed"))]
    failed = [Record.model_validate(each["record"]) for each in sorted(left, key=lambda each: float(each["at"]))]
    out_of_memory = next((record for record in failed if record.outcome == "oom"), None)
    if out_of_memory is not None:
        return out_of_memory
    signals = {rank: end.exitcode for rank, end in ended.items() if end.exitcode < 0}
    killed = {rank: code for rank, code in signals.items() if code != ENDED_BY_THE_AGENT}
    if failed and not killed:
        return failed[0]
    rank, code = next(iter((killed or {rank: end.exitcode for rank, end in ended.items()}).items()))
    return _failed(job, failures.of_rank(rank, job.item.case.world_size, code))


def _failed(job: Job, failure: Failure) -> Record:
    run = job.config.run
    return failed_record(job, failure, exactness(method_class(job.item.line.method, run.plugins), run.dropout))
