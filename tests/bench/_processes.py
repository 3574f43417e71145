"""Managers and command lines in processes of their own, for tests to meet, interrupt and kill; their descendants."""

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300
"""How long a test waits for what must come: a hang is told late, a busy machine is not taken for one."""


class Rendezvous:
    """The test's side of the `rendezvous` and `hangs_in_c` methods: two named pipes."""

    def __init__(self, folder: Path):
        self.reached, self.proceed = folder / "reached", folder / "proceed"
        for pipe in (self.reached, self.proceed):
            os.mkfifo(pipe)

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        return {
            "rendezvous": {"reached": str(self.reached), "proceed": str(self.proceed)},
            "hangs_in_c": {"reached": str(self.reached)},
        }

    def worker_pid(self) -> int:
        """Waits until the worker is in its first step."""
        return int(self.reached.read_text())

    def let_go(self) -> None:
        """Lets the step that has been reached go on."""
        self.proceed.write_text("")


def manage(run_dir: Path, *arguments: str) -> subprocess.Popen:
    """A manager in a process, and a process group, of its own."""
    return _started("tests.bench._manage", str(run_dir), *arguments)


def command_line(*arguments: str) -> subprocess.Popen:
    """`python -m bench` in a process group of its own, as a shell starts it."""
    return _started("bench", *arguments)


def _started(module: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def family(pid: int) -> list[int]:
    """A process's descendants: fork server, resource tracker, workers."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def gone(pids: list[int]) -> bool:
    """Waits for processes that are no children of ours to end; False where one outlives our patience."""
    watched = {}
    for pid in pids:
        try:
            watched[os.pidfd_open(pid)] = pid
        except ProcessLookupError:
            continue
    try:
        while watched:
            ended, _, _ = select.select(list(watched), [], [], PATIENCE_S)
            if not ended:
                return False
            for descriptor in ended:
                os.close(descriptor)
                del watched[descriptor]
        return True
    finally:
        for descriptor in watched:
            os.close(descriptor)


def is_worker(process: psutil.Process) -> bool:
    """Whether a descendant of this process is a child of its fork server, and runs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.ppid() != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    return False
