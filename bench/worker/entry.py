"""A worker process: one job, measured and reported. Imports nothing heavy, since its manager imports it by name."""

import faulthandler
import os
import signal
from functools import partial
from multiprocessing.connection import Connection

from bench.processes import signals
from bench.processes.messages import Job, Measured

STANDARD_OUTPUTS = (1, 2)


def main(connection: Connection, job: Job, output: int | None = None, *, in_turns: bool = False) -> None:
    """Measures `job`, announces each phase and reports the record through `connection`.

    output: a file descriptor that takes what libraries print, out of the way of the manager's own lines. Ctrl-C is
    the manager's to hear: it ends this process. in_turns: whether each window, and the counting at the end, waits for
    the manager's order.
    """
    begin(output)
    if job.leads:
        from bench.worker.launcher import lead

        lead(connection, job, in_turns=in_turns)
        return
    from bench.worker.measurement import measure  # torch and all: the fork server has imported it already

    connection.send(Measured(measure(job, connection.send, connection.recv if in_turns else None)))


take_turns = partial(main, in_turns=True)


def begin(output: int | None) -> None:
    """What every worker does first: hold on to its manager, leave Ctrl-C to it, print out of its way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.hold()
    if output is not None:
        for descriptor in STANDARD_OUTPUTS:
            os.dup2(output, descriptor)
    faulthandler.enable()
