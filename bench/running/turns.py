"""One block: fresh workers, and whose turn it is. Whoever computes has the token; here it is never given out twice.

The token is a call that does not return before the worker's answer is there: a worker computes from its start to
`Warm`, from `TakeWindow` to `Took`, and from `Finish` to its end, and waits without computing in between.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bench.configuration.config import RunSettings
from bench.configuration.sweep import WorkItem
from bench.measure import telemetry
from bench.measure.telemetry import Stretch, Watch
from bench.results.schema import Exactness, Record, Schedule
from bench.running import failures, worker
from bench.running.events import Event, PhaseBegan, TookTurn
from bench.running.failures import Failure
from bench.running.messages import Entered, Finish, Job, Measured, Order, Phase, TakeWindow, Took, Warm
from bench.running.processes import Worker, WorkerEnded
from bench.running.records import failed_record
from bench.running.rounds import in_round

ROUNDS_TRIED_PER_KEPT = 2
"""Dropped rounds are taken again, as long as no more than this many times the asked-for rounds are tried."""

Answer = TypeVar("Answer", Warm, Took)


@dataclass(frozen=True)
class Measurement:
    """A worker's record, whatever its outcome, and the seconds that it held the token."""

    item: WorkItem
    record: Record
    held_s: float


class Seat:
    """A worker that is started, given turns and ended from here; to be used in a `with`, which ends it.

    It has failed once `record` is there before `finish`.
    """

    def __init__(self, job: Job, on_event: Callable[[Event], None]) -> None:
        self.job = job
        self.held_s = 0.0
        self.pid: int | None = None
        self.warm: Warm | None = None
        self.windows: dict[int, Took] = {}
        """By round."""
        self.record: Record | None = None
        self._on_event = on_event
        self._process: Worker | None = None
        self._phase: Phase = "start"
        self._exactness: Exactness | None = None

    def __enter__(self) -> Seat:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def alive(self) -> bool:
        """Whether it can be given a turn."""
        return self.record is None

    def start(self) -> None:
        """Begins the process; set-up and warm-up are done, or have failed, when this returns."""
        with self._holding():
            self._process = Worker(worker.take_turns, self.job, leads=self.job.leads)
            self.pid = self._process.pid
            self.warm = self._answer(Warm, None)

    def turn(self, number: int) -> None:
        """One window, of round `number`."""
        with self._holding():
            self._tell(TakeWindow())
            took = self._answer(Took, TakeWindow())
        if took is not None:
            self.windows[number] = took
            self._on_event(TookTurn(self.job.item, number, took.began_s, took.ended_s))

    def finish(self, kept: Sequence[int], reason: str | None) -> None:
        """The record, of the windows of these rounds, and the end of the process."""
        places = {number: place for place, number in enumerate(self.windows)}
        with self._holding():
            self._tell(Finish(tuple(places[number] for number in kept if number in places), reason))
            self._answer(None, Finish((), "it ran out of memory after its last window"))

    @property
    def overhead_s(self) -> float | None:
        """Seconds of the token that were neither set-up nor steps; None for a worker that never got warm."""
        if self.warm is None:
            return None
        stepping_s = self.warm.warm_up_s + sum(took.seconds + took.discarded_s for took in self.windows.values())
        return self.held_s - self.warm.setup_s - stepping_s

    def _tell(self, order: Order) -> None:
        assert self._process is not None, "start comes first"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # gone: the answer will say so
            self._process.send(order)

    def _answer(self, wanted: type[Answer] | None, again: Order | None) -> Answer | None:
        """Waits for a `wanted` message; where the record comes instead, or the worker fails, it is over.

        again: the order for a worker that has begun anew and forgotten the one it was given.
        """
        assert self._process is not None, "start comes first"
        timeout_s = self.job.config.run.timeout_s
        deadline = time.monotonic() + timeout_s - self.held_s
        while True:
            try:
                message = self._process.receive(deadline - time.monotonic())
            except WorkerEnded as end:
                self._fail(failures.of_exit_code(end.exit_code, self._phase))
                return None
            if message is None:
                self._fail(failures.of_timeout(timeout_s, self._phase))
                return None
            if isinstance(message, Measured):
                self.record = Record.model_validate(message.record)
                self._end()
                return None
            if wanted is not None and isinstance(message, wanted):
                return message
            if isinstance(message, Warm) and again is not None:
                self.warm = message
                self.windows.clear()
                self._tell(again)
            elif isinstance(message, Entered):
                self._phase, self._exactness = message.phase, message.exactness
                self._on_event(PhaseBegan(self.job.item, message.phase))

    def _fail(self, failure: Failure) -> None:
        assert self._process is not None, "start comes first"
        self._process.kill()
        printed = self._process.output_tail
        detail = {"detail": {"output": printed}} if printed else {}
        self.record = failed_record(self.job, failure, self._exactness, detail)
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.__exit__()

    @contextlib.contextmanager
    def _holding(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.held_s += time.monotonic() - began


@dataclass(frozen=True)
class Rounds:
    """What became of a block's rounds: numbers of those kept, reasons of those dropped."""

    kept: tuple[int, ...]
    dropped: tuple[str, ...]
    stretches: dict[tuple[WorkItem, int], Stretch]
    """What the device did during each line's window of each round."""


def interleaved(
    jobs: Sequence[Job], watch: Watch, on_event: Callable[[Event], None], starting: Callable[[WorkItem], None]
) -> list[Measurement]:
    """All workers resident together, a window each per round. In the order of `jobs`."""
    with contextlib.ExitStack() as stack:
        seats = [stack.enter_context(Seat(job, on_event)) for job in jobs]
        for seat in in_round(seats, jobs[0].item.block):
            starting(seat.job.item)
            seat.start()
        rounds = _take_rounds(seats, watch)
        for seat in seats:
            if seat.alive:
                seat.finish(rounds.kept, _nothing_kept(rounds))
        return [_measurement(seat, "interleaved", rounds, residents=len(seats)) for seat in seats]


def alternated(
    jobs: Sequence[Job], watch: Watch, on_event: Callable[[Event], None], starting: Callable[[WorkItem], None]
) -> list[Measurement]:
    """One worker after another, from its start to its end, in an order that differs from block to block.

    In the order of `jobs`. Each has rounds of its own; a slowdown of the device drops a window of one worker.
    """
    taken = {}
    for job in in_round(jobs, jobs[0].item.block):
        starting(job.item)
        taken[job.item] = _by_itself(job, watch, on_event, "alternated", job.config.run.rounds)
    return [taken[job.item] for job in jobs]


def alone(
    job: Job, watch: Watch, on_event: Callable[[Event], None], starting: Callable[[WorkItem], None]
) -> Measurement:
    """One worker with the device to itself, for what it needs: set-up, warm-up, one window."""
    starting(job.item)
    return _by_itself(job, watch, on_event, "solo", 1)


def _by_itself(
    job: Job, watch: Watch, on_event: Callable[[Event], None], schedule: Schedule, wanted: int
) -> Measurement:
    with Seat(job, on_event) as seat:
        seat.start()
        rounds = _take_rounds([seat], watch, wanted)
        if seat.alive:
            seat.finish(rounds.kept, _nothing_kept(rounds))
        return _measurement(seat, schedule, rounds, residents=1)


def _take_rounds(seats: Sequence[Seat], watch: Watch, wanted: int | None = None) -> Rounds:
    """`wanted` rounds, by default those of the settings, fewer where the budget of all workers together is spent.

    A round in which the device slowed down for any line is dropped for all of them, and another one taken.
    """
    settings: RunSettings = seats[0].job.config.run
    wanted = wanted or settings.rounds
    began = time.monotonic()
    budget_s = len(seats) * settings.budget_s - sum(seat.warm.spent_s for seat in seats if seat.warm)
    first = seats[0].job.item.block  # so that blocks whose cycles the budget cuts short lack different orders
    kept: list[int] = []
    dropped: list[str] = []
    stretches: dict[tuple[WorkItem, int], Stretch] = {}
    for number in range(ROUNDS_TRIED_PER_KEPT * wanted):
        elapsed_s = time.monotonic() - began
        over = number > 0 and elapsed_s * (number + 1) / number > budget_s
        if len(kept) >= wanted or (over and len(kept) >= min(settings.min_samples, wanted)):
            break
        for seat in in_round(seats, first + number):
            if seat.alive:
                seat.turn(number)
        alive = [seat for seat in seats if seat.alive]
        if not alive:
            break
        found = {(seat.job.item, number): _stretch(seat.windows[number], watch) for seat in alive}
        watch.forget()
        stretches |= found
        reasons = [telemetry.why_dropped(each.readings) for each in found.values()]
        reason = next(filter(None, reasons), None)
        if reason is None:
            kept.append(number)
        else:
            dropped.append(f"round {number}: {reason}")
    return Rounds(tuple(kept), tuple(dropped), stretches)


def _stretch(took: Took, watch: Watch) -> Stretch:
    return Stretch(took.began_s, took.ended_s, watch.between(took.began_s, took.ended_s))


def _nothing_kept(rounds: Rounds) -> str | None:
    return None if rounds.kept else f"every round was dropped; {rounds.dropped[0]}" if rounds.dropped else None


def _measurement(seat: Seat, schedule: Schedule, rounds: Rounds, residents: int) -> Measurement:
    """The seat's record with what only the manager knows of it."""
    record = seat.record
    assert record is not None, "a seat that has ended has a record"
    columns: dict[str, Any] = {"schedule": schedule, "dropped_rounds": rounds.dropped}
    if record.outcome == "ok":
        kept = tuple(number for number in rounds.kept if number in seat.windows)
        stretches = [rounds.stretches[seat.job.item, number] for number in kept]
        steps = sum(seat.windows[number].steps for number in kept)
        alone = not record.ranks  # of several devices one is watched, and its energy is not that of all users
        interactions = record.item_slots * steps if record.item_slots is not None and alone else None
        columns["telemetry"] = telemetry.summary(stretches, interactions, seat.pid, residents)
        if schedule == "interleaved":
            columns["rounds"] = kept
    if seat.warm is not None:
        columns["overhead_s"] = seat.overhead_s
        columns["detail"] = {**record.detail, "warm_up_s": seat.warm.warm_up_s, "held_s": seat.held_s}
    return Measurement(seat.job.item, Record.model_validate({**dict(record), **columns}), seat.held_s)
