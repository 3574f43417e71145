"""Workers whose clock counts the tokens that they encode: what a run of them measures hangs on no machine's load.

Processes, turns, windows, records and verdicts are real; time alone is not. Every process of a block runs at a rate of
its own, drawn from what it measures, so that blocks scatter as real ones do and two runs are the same to the last bit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest
from torch import Tensor

from bench.machine import telemetry
from bench.measure import clock
from bench.processes.messages import Job
from bench.worker import entry
from gram_core.training import Training

TOKEN_S = 1e-4
SCATTER = 0.005
"""Standard deviation of a process's rate, as a part of it."""
_take_turns, _main = entry.take_turns, entry.main
_now = 0.0


@contextmanager
def counting() -> Iterator[None]:
    """Within, workers that this process starts count, and no load of the machine is read."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(entry, "take_turns", take_turns)
        patched.setattr(entry, "main", main)
        patched.setattr(telemetry, "runnable_tasks", lambda: None)
        yield


def now() -> float:
    """Seconds counted in this process."""
    return _now


def advance(seconds: float) -> None:
    """Lets so many seconds pass."""
    global _now
    _now += seconds


def take_turns(connection: Connection, job: Job, output: int | None = None) -> None:
    """As `entry.take_turns`, in a worker."""
    _count(job)
    _take_turns(connection, job, output)


def main(connection: Connection, job: Job, output: int | None = None) -> None:
    """As `entry.main`, in a worker."""
    _count(job)
    _main(connection, job, output)


def _count(job: Job) -> None:
    """Has this process's clock go by the tokens that pass the encoder."""
    item = job.item
    drawn = random.Random(f"{item.line.method} {item.block} {item.replica} {job.config.method}")
    rate = TOKEN_S * (1 + SCATTER * drawn.gauss())
    own = Training.encode

    def encode(training: Training, items: Tensor) -> Tensor:
        tokens: Any = training.encoder.computed_tokens(training.table.lengths[items])
        advance(rate * int(tokens.sum()))
        return own(training, items)

    Training.encode = encode  # type: ignore[method-assign] # of a process that ends with its job
    clock.HostClock.now = lambda _: now()  # type: ignore[method-assign] # the same
