"""A whole measurement by one worker, straight through or in turns with others, whatever becomes of it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from bench.measure.clock import Clock
from bench.methods import exactness, method_class
from bench.processes import failures
from bench.processes.messages import Entered, Job, Order, Took, Warm
from bench.worker.records import failed_record
from bench.worker.subject import Subject


def measure(job: Job, say: Callable[[Entered], None], clock: Clock | None = None) -> dict[str, Any]:
    """All of a solo measurement, as a `Record`'s fields ready for JSON; a failure is an outcome like any other.

    say: called with each phase as it begins.
    """
    return _measure(job, say, lambda subject: subject.take_windows(), clock)


def measure_in_turns(
    job: Job,
    say: Callable[[Entered | Warm | Took], None],
    hear: Callable[[], Order],
    clock: Clock | None = None,
) -> dict[str, Any]:
    """The same where other processes are measured meanwhile: computes only between an order and the answer to it.

    hear: waits for the next order. Set-up and warm-up need none: the manager starts one process at a time.
    """

    return _measure(job, say, lambda subject: subject.take_turns(say, hear), clock)


def _measure(
    job: Job, say: Callable[[Entered], None], windows: Callable[[Subject], None], clock: Clock | None
) -> dict[str, Any]:
    """One attempt; a second one, with half the memory budget, where the method has one and ran out of memory."""
    record = attempt(job, say, windows, lambda: Subject(job, clock))
    table = job.config.method.get(job.item.line.method, {})
    if record["outcome"] != "oom" or "memory_budget" not in table:
        return record
    smaller = table | {"memory_budget": table["memory_budget"] / 2}
    methods = job.config.method | {job.item.line.method: smaller}
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    again = Job(job.config.model_copy(update={"method": methods}), job.item)
    record = attempt(again, say, windows, lambda: Subject(again, clock))
    record["detail"]["memory_budget_after_oom"] = smaller["memory_budget"]
    return record


def attempt(
    job: Job, say: Callable[[Entered], None], windows: Callable[[Subject], None], make: Callable[[], Subject]
) -> dict[str, Any]:
    """From set-up to facts, or to the first failure; `windows` drives the subject that `make` makes."""
    phase = "start"
    subject = None

    def enter(begun: str) -> None:
        nonlocal phase
        phase = begun
        say(Entered(begun, claim))

    claim = None
    try:
        claim = exactness(method_class(job.item.line.method, job.config.run.plugins), job.config.run.dropout)
        enter("setup")
        subject = make()
        subject.set_up()
        enter("warm-up")
        subject.warm_up()
        enter("windows")
        windows(subject)
        enter("facts")
        return subject.record().model_dump(mode="json")
    except Exception as error:
        failure = failures.of_exception(error, phase)
        return failed_record(job, failure, claim, subject.known() if subject else {}).model_dump(mode="json")
