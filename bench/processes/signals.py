"""A worker ends when the process that asked for it has gone; Ctrl-C waits while a measurement is put on the disk."""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait

_ORPHANED = 70


def hold() -> None:
    """From now on this process ends as soon as the parent of `multiprocessing` has; returns at once.

    Outside a worker (no parent process) there is nothing to hold on to.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    _kill_on_hang_up(parent.sentinel)
    threading.Thread(target=_end_with, args=(parent.sentinel,), name="lifeline", daemon=True).start()


def _kill_on_hang_up(pipe: int) -> None:
    """Asks the kernel to kill this process when the pipe's other end closes: works even while the GIL is held.

    Only Linux lets the signal be chosen; elsewhere the thread alone has to do.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _end_with(pipe: int) -> None:
    wait([pipe])
    os._exit(_ORPHANED)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Delays Ctrl-C to the end of the block; does nothing outside the main thread, which alone hears it."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)
