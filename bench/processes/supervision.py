"""One worker under supervision: what it says until it has said enough, or why it can say no more."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.processes import failures
from bench.processes.failures import Failure
from bench.processes.fork_server import Worker, WorkerEnded


class WorkerFailed(Exception):
    """The worker died or took too long, and is gone.

    exit_code: None where it was ended from here; output: the last that it printed.
    """

    def __init__(self, failure: Failure, exit_code: int | None, output: str) -> None:
        super().__init__(failure.reason)
        self.failure, self.exit_code, self.output = failure, exit_code, output


def messages(
    worker: Worker,
    phase: Callable[[], str],
    timeout_s: float,
    *,
    spent_s: float = 0.0,
    setting: str = "run.timeout_s",
) -> Iterator[Any]:
    """The worker's messages as they come; raises WorkerFailed, and BenchError where a process can't be ended.

    phase: what it is doing, for the reason; spent_s: of the timeout, before now; setting: what the timeout is called.
    """
    deadline, exit_code = time.monotonic() + timeout_s - spent_s, None
    while True:
        try:
            message = worker.receive(deadline - time.monotonic())
        except WorkerEnded as end:
            failure, exit_code = failures.of_exit_code(end.exit_code, phase()), end.exit_code
            break
        if message is None:
            failure = failures.of_timeout(timeout_s, phase(), setting)
            break
        yield message
    worker.kill()
    raise WorkerFailed(failure, exit_code, worker.output_tail)
