"""A worker's failure as a value: which outcome an exception is, and the one sentence that a reader needs.

Loads without torch, so that the manager can judge what a worker never got to say.
"""

import re
import signal
import sys
import traceback
from dataclasses import dataclass

from bench.methods import Unavailable
from bench.results.schema import Outcome

MAX_REASON_CHARACTERS = 500
_OUT_OF_MEMORY = re.compile(
    r"out of memory|_STATUS_ALLOC_FAILED|can't allocate memory|cannot allocate memory|bad_alloc", re.IGNORECASE
)
_ASKED_FOR = re.compile(r"tried to allocate (?P<amount>[\d.]+ ?\w*)(?: \([^)]*\))?", re.IGNORECASE)
_FREE = re.compile(r"total capacity of (?P<total>[\d.]+ \w+) of which (?P<free>[\d.]+ \w+) is free", re.IGNORECASE)

_FOLDER = re.compile(r'File "[^"\n]*/(?=(?:bench|gram_core|torch|transformers|tests|python3[^/"]*)/[^"\n]*")')


class NonFiniteLoss(ArithmeticError):
    """Training diverged, so that its times and counts describe no training."""


class NothingKept(Exception):
    """Every window was dropped: nothing is wrong with the method, and nothing was measured."""


@dataclass(frozen=True)
class Failure:
    """Why there is no measurement: an outcome, one sentence, and what a developer wants to see besides.

    lasting: whether trying again in this run is of no use, whatever the outcome.
    """

    outcome: Outcome
    reason: str
    trace: str | None = None
    lasting: bool = False


def of_exception(error: BaseException, phase: str) -> Failure:
    """The failure that an exception of a worker's `phase` ("setup", say) amounts to."""
    if isinstance(error, NothingKept | Unavailable):
        return Failure("skipped", str(error), lasting=isinstance(error, Unavailable))
    trace = without_folders("".join(traceback.format_exception(error)))
    if is_out_of_memory(error):
        return Failure("oom", _out_of_memory_sentence(error, phase), trace)
    message = _one_line(str(error))
    name = type(error).__name__
    return Failure("error", f"{name}: {message}" if message else f"{name} in the {phase}", trace)


def without_folders(trace: str) -> str:
    """A traceback whose files are named from their package on: results are passed on, home folders need not be."""
    return _FOLDER.sub(r'File "', trace)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: the host's, the allocator's, or one inside a CUDA library.

    cuBLAS and cuDNN report a failed workspace as a plain RuntimeError, as does torch's CPU allocator.
    """
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def of_exit_code(exit_code: int | None, phase: str) -> Failure:
    """The failure of a worker process that ended without a word: `Process.exitcode`, negative for a signal."""
    if exit_code is None or exit_code >= 0:
        return Failure("error", f"the worker ended with exit code {exit_code} in the {phase}, before it reported")
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = ", often the kernel's out-of-memory killer" if exit_code == -signal.SIGKILL else ""
    return Failure("error", f"the worker was killed by {name} in the {phase}{hint}")


def of_rank(rank: int, size: int, exit_code: int) -> Failure:
    """The failure of several processes of which one ended without a word."""
    alone = of_exit_code(exit_code, "run")
    return Failure(alone.outcome, alone.reason.replace("the worker", f"process {rank} of {size}", 1))


def of_timeout(timeout_s: float, phase: str, setting: str = "run.timeout_s") -> Failure:
    """The failure of a worker that was ended because it took too long, as the setting says."""
    return Failure("timeout", f"took longer than {timeout_s:g} s ({setting}); it was in the {phase}")


def _out_of_memory_sentence(error: BaseException, phase: str) -> str:
    message = str(error)
    asked, free = _ASKED_FOR.search(message), _FREE.search(message)
    if asked is None:
        detail = _one_line(message)
        return f"out of memory in the {phase}" + (f": {detail}" if detail else "")
    sentence = f"out of memory in the {phase}: asked for {_readable(asked['amount'].strip())}"
    return f"{sentence} with {free['free']} of {free['total']} free" if free else sentence


def _readable(amount: str) -> str:
    """torch's CPU allocator gives plain bytes: 1099511627776 bytes -> 1024.00 GiB."""
    number, _, unit = amount.partition(" ")
    return f"{int(number) / 2**30:.2f} GiB" if number.isdigit() and unit in ("bytes", "") else amount


def _one_line(message: str) -> str:
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return first if len(first) <= MAX_REASON_CHARACTERS else first[: MAX_REASON_CHARACTERS - 1] + "…"
