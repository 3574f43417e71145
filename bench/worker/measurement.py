"""A whole measurement by one worker, straight through or in turns with others, whatever becomes of it."""

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.methods import exactness, method_class
from bench.processes import failures
from bench.processes.messages import Entered, Job, Order, SetUp, Took, Warm
from bench.worker.records import failed_record
from bench.worker.subject import Subject


def measure(
    job: Job, say: Callable[[Entered | SetUp | Warm | Took], None], hear: Callable[[], Order] | None = None
) -> dict[str, Any]:
    """All of a measurement, as a `Record`'s fields ready for JSON; a failure is an outcome like any other.

    say: called with each phase as it begins. hear: waits for the next order, where other processes are measured
    meanwhile and this one computes windows only between an order and the answer to it. Set-up needs none, and warm-up
    only where `job` says so. A method with a memory budget that runs out of memory has a second attempt, with half of
    it.
    """

    def wait() -> None:
        if hear is not None and job.warms_up_when_told:
            say(SetUp(time.monotonic()))
            hear()

    def windows(subject: Subject) -> None:
        if hear is None:
            subject.take_windows()
        else:
            subject.take_turns(say, hear)

    record = attempt(job, say, windows, lambda: Subject(job), wait)
    table = job.config.method.get(job.item.line.method, {})
    if record["outcome"] != "oom" or "memory_budget" not in table:
        return record
    smaller = table | {"memory_budget": table["memory_budget"] / 2}
    methods = job.config.method | {job.item.line.method: smaller}
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    again = Job(job.config.model_copy(update={"method": methods}), job.item)
    record = attempt(again, say, windows, lambda: Subject(again))  # in the turn that the first one had
    record["detail"]["memory_budget_after_oom"] = smaller["memory_budget"]
    return record


def attempt(
    job: Job,
    say: Callable[[Entered], None],
    windows: Callable[[Subject], None],
    make: Callable[[], Subject],
    wait: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """From set-up to facts, or to the first failure; `windows` drives the subject that `make` makes.

    wait: returns when it is this process's turn to warm up.
    """
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
        wait()
        enter("warm-up")
        subject.warm_up()
        enter("windows")
        windows(subject)
        enter("facts")
        return subject.record().model_dump(mode="json")
    except Exception as error:
        failure = failures.of_exception(error, phase)
        return failed_record(job, failure, claim, subject.known() if subject else {}).model_dump(mode="json")
