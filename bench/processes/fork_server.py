"""Fresh worker processes from a preloaded fork server, and their certain end.

The fork server imports what every worker needs once; a worker is a fork of it and begins with everything imported.
Neither it nor this process ever touches CUDA, which does not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, reduction, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from bench.errors import BenchError
from bench.processes.messages import Message

PRELOAD = (
    "bench.worker.measurement",
    "torch._dynamo",  # imported by the first optimizer step of a process, which costs it a second
    "transformers.modeling_utils",
    "transformers.models.bert.modeling_bert",
    "transformers.models.mpnet.modeling_mpnet",
)
SCORING = "sklearn.metrics"
"""What workers of trainings need besides, which takes each a second to import; it would only swell the others."""
WORKER_ENVIRONMENT = {
    # Asks the driver whether there is a GPU: asking CUDA would touch it.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # How often a thread looks for its siblings before it sleeps; torch's OpenMP looks for milliseconds. Where others
    # use the same cores, siblings lose their turn meanwhile, at every operation: a step of 20 ms on two free cores
    # took 1,400 ms on two busy ones, and 40 ms with this, which costs nothing on free ones.
    "GOMP_SPINCOUNT": "1000",
    # cuDNN's attention builds a plan for every new batch shape, which takes longer than a step; deduplicated batches
    # have a new shape each time. The next backend in line needs no plans.
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
    # Memory for new shapes is mapped behind what there is, where else a step would wait for the driver to allocate.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
"""What fork server and workers find in their environment, unless this process's own says otherwise."""
KILL_PATIENCE_S = 60.0
OUTPUT_TAIL_BYTES = 4000

_context = multiprocessing.get_context("forkserver")


def _lives(process: psutil.Process) -> bool:
    """Whether a process that is no child of ours still runs; one that waits to be reaped has given everything back."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class WorkerEnded(Exception):
    """The worker process is gone and says no more; `exit_code` is negative for a signal."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class WorkerOutput:
    """An unnamed file that takes a worker's standard output and error; nothing of it outlives the two processes."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close(), it lives as long as the worker

    def __reduce__(self) -> tuple[Callable[..., int], tuple[Any, ...]]:
        return _received_descriptor, (reduction.DupFd(self._file.fileno()),)

    def tail(self) -> str:
        """The last of what was written."""
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - OUTPUT_TAIL_BYTES))
        return self._file.read().decode(errors="replace").strip()

    def close(self) -> None:
        """Forgets the output."""
        self._file.close()


def _received_descriptor(sent: Any) -> int:
    """What a `WorkerOutput` turns into in the worker: a file descriptor."""
    return int(sent.detach())


class Worker:
    """One fresh process running `target(connection, job, output)`; to be used in a `with`, which ends it.

    leads: whether it may start processes of its own, which end with it.
    """

    def __init__(self, target: Callable[..., None], job: Any, *, leads: bool = False) -> None:
        warm_fork_server()
        self._connection, theirs = _context.Pipe()
        self._output = WorkerOutput()
        self._process = _context.Process(target=target, args=(theirs, job, self._output), daemon=not leads)
        try:
            self._process.start()
        except BaseException:
            self._connection.close()
            self._output.close()
            raise
        finally:
            theirs.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.kill()
        finally:
            self._connection.close()
            self._output.close()

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    @property
    def output_tail(self) -> str:
        """The last of what the worker printed."""
        return self._output.tail()

    def send(self, message: Any) -> None:
        """Says something to the worker."""
        self._connection.send(message)

    def receive(self, timeout_s: float) -> Message | None:
        """The worker's next message, None when `timeout_s` pass without one; raises WorkerEnded."""
        wait([self._connection, self._process.sentinel], max(0.0, timeout_s))
        try:
            if self._connection.poll():
                return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(KILL_PATIENCE_S)
            raise WorkerEnded(self._process.exitcode) from None
        if self._process.exitcode is not None:
            raise WorkerEnded(self._process.exitcode)
        return None

    def kill(self) -> None:
        """Ends the process and its own, whatever they are doing, and waits until their memory is free.

        Raises BenchError if one stays.
        """
        led = self._led()
        if self._process.is_alive():
            self._process.kill()
        self._process.join(KILL_PATIENCE_S)
        for process in led:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        deadline = time.monotonic() + KILL_PATIENCE_S
        while (staying := any(_lives(process) for process in led)) and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._process.exitcode is None or staying:
            raise BenchError(
                f"worker process {self.pid} does not end: its device or driver hangs; nothing measured after it on "
                "this machine could be trusted, so reset the device and resume the run."
            )

    def _led(self) -> list[psutil.Process]:
        if self._process.daemon or not self._process.is_alive():
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def join(self, timeout_s: float) -> None:
        """Lets the process end by itself for at most `timeout_s`."""
        self._process.join(timeout_s)


def warm_fork_server(*further: str) -> None:
    """Starts the fork server, which imports while this process goes on; does nothing where it runs already.

    further: modules besides those that every worker needs.

    It imports from where this process does: left to itself, the fork server of multiprocessing looks into the working
    directory first, and workers measured another copy of this program that lies there, or is installed.

    It must not hear Ctrl-C, which a terminal sends to all of them: it, and every worker through it, inherits a mask
    that blocks the signal.
    """
    _context.set_forkserver_preload([*PRELOAD, *further])
    resource_tracker.ensure_running()  # by itself first: starting it lifts the mask
    wanted = {name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()}
    places = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    with _interrupts_blocked(), _environment(wanted | {"PYTHONPATH": places, "PYTHONSAFEPATH": "1"}):
        forkserver.ensure_running()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """Environment variables for a process that is started within."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
