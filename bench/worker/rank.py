"""One rank of a measurement: joins the others, measures with them, and says so where a manager listens.

On the manager's host it is forked by torchrun's agent (`bench.worker.launcher`). On further hosts torchrun starts it,
`torchrun ... -m bench.worker.rank`, and it learns from the others what is to be measured.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.processes import signals
from bench.processes.messages import Job, Order
from bench.results.files import replace
from bench.worker.distributed_measurement import RankedSubject
from bench.worker.measurement import attempt
from bench.worker.subject import Subject
from gram_core.distributed import Ranks, connect, disconnect

FAILED = 1
RECORD = "record.json"
AFTERWARDS_S = 1.0
"""A rank that complains of another's silence stays so long: the agent then sees first who really ended first."""


class Task(NamedTuple):
    """What the ranks are to do; job.config.run.device tells on what."""

    job: Job
    in_turns: bool


def member(connection: Connection, task: Task, folder: str) -> None:
    """A rank on the manager's host. folder: where it leaves its record, the first one's, or word of its failure."""
    signals.hold()
    rank = int(os.environ["RANK"])
    speaks = int(os.environ["LOCAL_RANK"]) == 0
    record = _measure(task, connection if speaks else None)
    if record["outcome"] != "ok":
        _leave(Path(folder) / f"{rank}.failed", record)
        sys.stdout.flush()
        time.sleep(AFTERWARDS_S)
        os._exit(FAILED)  # at once: a group that is half gone cannot be taken down in order
    if speaks:
        _leave(Path(folder) / RECORD, record)


def main() -> None:
    """A rank on another host: learns its task from the rank that has one."""
    record = _measure(None, None)
    os._exit(0 if record["outcome"] == "ok" else FAILED)


def _measure(task: Task | None, connection: Connection | None) -> dict[str, Any]:
    device = _device(task)
    ranks = connect(device)
    given = next(each for each in ranks.all_values(task) if each is not None)
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def say(message: Any) -> None:
        if connection is not None:
            connection.send(message)

    def windows(subject: Subject) -> None:
        if given.in_turns:
            subject.take_turns(say, lambda: _heard(ranks, connection))
        else:
            subject.take_windows()

    make: Callable[[], Subject] = lambda: RankedSubject(given.job, ranks, device, ranks_here)  # noqa: E731
    record = attempt(given.job, say, windows, make)
    if record["outcome"] == "ok":
        gc.unfreeze()
        gc.collect()  # graphs of collectives must be gone before their group is
        disconnect()
    return record


def _device(task: Task | None) -> torch.device:
    """On a host that does not know its task yet, GPUs where there are any."""
    return own_device(torch.cuda.is_available() if task is None else task.job.config.run.device == "cuda")


def own_device(on_gpu: bool) -> torch.device:
    """A GPU for each rank of a host, or the processor for all."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")


def _heard(ranks: Ranks, connection: Connection | None) -> Order:
    orders = ranks.all_values(connection.recv() if connection is not None else None)
    return next(order for order in orders if order is not None)


def _leave(file: Path, record: dict[str, Any]) -> None:
    replace(file, json.dumps({"at": time.time(), "record": record}).encode())


if __name__ == "__main__":
    main()
