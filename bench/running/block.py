"""One block: fresh workers, and whose turn it is. Whoever computes has the token; here it is never given out twice.

The token is a call that does not return before the worker's answer is there: a worker computes from its start to
`Warm`, from `TakeWindow` to `Took`, and from `Finish` to its end, and waits without computing in between. Only set-up,
whose time is nobody's result, may be everyone's at once: there a worker computes from its start to `SetUp`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from bench.configuration.config import RunSettings
from bench.configuration.sweep import WorkItem
from bench.machine import telemetry
from bench.machine.cores import compute_threads
from bench.machine.telemetry import Stretch, Watch
from bench.processes.fork_server import Worker
from bench.processes.messages import Entered, Finish, Job, Measured, Order, SetUp, TakeWindow, Took, Warm, WarmUp
from bench.processes.supervision import WorkerFailed, messages
from bench.results.schema import Exactness, Record, Schedule
from bench.running.counterbalance import in_round
from bench.running.events import Event, PhaseBegan, TookTurn
from bench.worker import entry
from bench.worker.records import failed_record

ROUNDS_TRIED_PER_KEPT = 2
"""Dropped rounds are taken again, as long as no more than this many times the asked-for rounds are tried."""

SET_UP_TOGETHER = ("cuda",)
"""Devices on which workers of a block are set up at the same time: on a processor they would share its cores."""

Answer = TypeVar("Answer", SetUp, Warm, Took)


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
        self._phase = "start"
        self._began_s = 0.0
        self._exactness: Exactness | None = None

    def __enter__(self) -> Seat:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def alive(self) -> bool:
        """Whether it can be given a turn."""
        return self.record is None

    def run(self) -> Record:
        """The whole measurement by itself, in one go; whatever becomes of it is its record."""
        with self._holding(entry.main):
            self._answer(None, None)
        assert self.record is not None, "a worker that has ended has a record"
        return self.record

    def start(self) -> None:
        """Begins the process; set-up and warm-up are done, or have failed, when this returns."""
        with self._holding(entry.take_turns):
            self.warm = self._answer(Warm, None)

    def begin(self) -> None:
        """Begins the process of a job that warms up when it is told, and returns while it is being set up."""
        self._began_s = time.monotonic()
        self._process = Worker(entry.take_turns, self.job, leads=self.job.leads)
        self.pid = self._process.pid

    def await_set_up(self) -> None:
        """Set-up is done, or has failed, when this returns."""
        found = self._answer(SetUp, None)
        self.held_s += (time.monotonic() if found is None else found.at_s) - self._began_s

    def warm_up(self) -> None:
        """So is warm-up."""
        with self._holding():
            self._tell(WarmUp())
            self.warm = self._answer(Warm, None)

    def turn(self, number: int, order: TakeWindow) -> None:
        """One window, of round `number`."""
        with self._holding():
            self._tell(order)
            took = self._answer(Took, order)
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
        windows_s = sum(took.led_in_s + took.seconds + took.discarded_s for took in self.windows.values())
        return self.held_s - self.warm.setup_s - self.warm.warm_up_s - windows_s

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
        try:
            for message in messages(self._process, lambda: self._phase, timeout_s, spent_s=self.held_s):
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
        except WorkerFailed as failed:
            detail = {"detail": {"output": failed.output}} if failed.output else {}
            self.record = failed_record(self.job, failed.failure, self._exactness, detail)
            self._end()
        return None

    def _end(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.__exit__()

    @contextlib.contextmanager
    def _holding(self, begun: Callable[..., None] | None = None) -> Iterator[None]:
        """Counts what is done within as time of the token; begun: what a new process is started with first."""
        began = time.monotonic()
        try:
            if begun is not None:
                self._process = Worker(begun, self.job, leads=self.job.leads)
                self.pid = self._process.pid
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
    lead_in_s: float = 0.0
    """Untimed steps before each window."""


class Around(NamedTuple):
    """Who watches the device, who hears of events, and who is told of each worker before it begins."""

    watch: Watch
    on_event: Callable[[Event], None]
    starting: Callable[[WorkItem], None]


def interleaved(
    jobs: Sequence[Job], around: Around, *, capped: bool = False, share_s: float = math.inf
) -> list[Measurement]:
    """All workers resident together, a window each per round. In the order of `jobs`.

    On a GPU they are set up at the same time, which takes seconds of the host each, and take the steps that compile and
    capture; then one after another warms up.
    capped: whether the device is known to be at its power cap when these lines run; share_s: what the block may take,
    of which rounds take what is left.
    """
    until_s = time.monotonic() + share_s
    together = not any(job.leads for job in jobs) and jobs[0].config.run.device in SET_UP_TOGETHER
    with contextlib.ExitStack() as stack:
        seats = [stack.enter_context(Seat(job._replace(warms_up_when_told=together), around.on_event)) for job in jobs]
        in_order = in_round(seats, jobs[0].item.block)
        for seat in in_order if together else ():
            around.starting(seat.job.item)
            seat.begin()
        for seat in in_order if together else ():
            seat.await_set_up()
        for seat in in_order:
            if not together:
                around.starting(seat.job.item)
                capped |= _start(seat.start, around.watch)
            elif seat.alive:
                capped |= _start(seat.warm_up, around.watch)
        rounds = _take_rounds(seats, around.watch, capped=capped, until_s=until_s)
        for seat in seats:
            if seat.alive:
                seat.finish(rounds.kept, _nothing_kept(rounds))
        return [_measurement(seat, "interleaved", rounds, residents=len(seats)) for seat in seats]


def alternated(
    jobs: Sequence[Job], around: Around, *, capped: bool = False, share_s: float = math.inf
) -> list[Measurement]:
    """One worker after another, from its start to its end, in an order that differs from block to block.

    In the order of `jobs`. Each has rounds of its own; a slowdown of the device drops a window of one worker.
    """
    taken = {}
    for job in in_round(jobs, jobs[0].item.block):
        until_s, wanted = time.monotonic() + share_s / len(jobs), job.config.run.rounds
        taken[job.item] = _by_itself(job, around, "alternated", wanted, capped=capped, until_s=until_s)
    return [taken[job.item] for job in jobs]


def alone(job: Job, around: Around) -> Measurement:
    """One worker with the device to itself, for what it needs: set-up, warm-up, one window."""
    return _by_itself(job._replace(work_is_counted=False), around, "solo", 1)


def _by_itself(
    job: Job,
    around: Around,
    schedule: Schedule,
    wanted: int,
    *,
    capped: bool | None = None,
    until_s: float = math.inf,
) -> Measurement:
    around.starting(job.item)
    with Seat(job, around.on_event) as seat:
        found = _start(seat.start, around.watch)
        known = None if capped is None else capped or found
        rounds = _take_rounds([seat], around.watch, wanted, capped=known, until_s=until_s)
        if seat.alive:
            seat.finish(rounds.kept, _nothing_kept(rounds))
        return _measurement(seat, schedule, rounds, residents=1)


def _start(warms_up: Callable[[], None], watch: Watch) -> bool:
    """Has a worker warm up; whether the device was at its power cap meanwhile."""
    began_s = time.monotonic()
    warms_up()
    found = telemetry.at_power_cap(watch.between(began_s, time.monotonic()))
    watch.forget()
    return found


def _take_rounds(
    seats: Sequence[Seat],
    watch: Watch,
    wanted: int | None = None,
    *,
    capped: bool | None = False,
    until_s: float = math.inf,
) -> Rounds:
    """`wanted` rounds, by default those of the settings, fewer where the budget of all workers together is spent or
    another one would end after `until_s`.

    A round in which the device slowed down for any line is dropped for all of them, and another one taken. Where power
    decides the clock, each window is led in. capped: whether that is known already; None leaves it out. Where it shows
    in the first round only, that round has shown it and no more: it is taken again.
    """
    settings: RunSettings = seats[0].job.config.run
    wanted = wanted or settings.rounds
    settled = TakeWindow(settings.lead_in_s, settings.settled_window_s)
    order = settled if capped else TakeWindow()
    began = time.monotonic()
    budget_s = len(seats) * settings.budget_s - sum(seat.warm.spent_s for seat in seats if seat.warm)
    first = seats[0].job.item.block  # so that blocks whose cycles the budget cuts short lack different orders
    kept: list[int] = []
    dropped: list[str] = []
    stretches: dict[tuple[WorkItem, int], Stretch] = {}
    for number in range(ROUNDS_TRIED_PER_KEPT * wanted):
        elapsed_s = time.monotonic() - began
        next_s = elapsed_s * (number + 1) / number if number else 0.0
        over = next_s > budget_s or began + next_s > until_s
        if len(kept) >= wanted or (over and len(kept) >= min(settings.min_samples, wanted)):
            break
        for seat in in_round(seats, first + number):
            if seat.alive:
                seat.turn(number, order)
        alive = [seat for seat in seats if seat.alive]
        if not alive:
            break
        found = {(seat.job.item, number): _stretch(seat.windows[number], watch) for seat in alive}
        watch.forget()
        stretches |= found
        readings = [reading for each in found.values() for reading in each.readings]
        reason = telemetry.why_dropped(readings)
        if reason is not None:
            dropped.append(f"round {number}: {reason}")
        elif number == 0 and capped is False and _power_decides(list(found.values())):
            order = settled
        else:
            kept.append(number)
    return Rounds(tuple(kept), tuple(dropped), stretches, order.lead_in_s)


def _power_decides(stretches: Sequence[Stretch]) -> bool:
    capped = any(telemetry.at_power_cap(each.readings) for each in stretches)
    return capped or telemetry.clock_depends_on_who_runs(stretches)


def _stretch(took: Took, watch: Watch) -> Stretch:
    readings = watch.between(took.began_s, took.ended_s)
    return Stretch(took.began_s, took.ended_s, readings, took.began_s - took.led_in_s)


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
        threads = compute_threads(seat.job.config.run.device)
        columns["telemetry"] = telemetry.summary(stretches, interactions, seat.pid, residents, threads)
        if schedule == "interleaved":
            columns["rounds"] = kept
    if seat.warm is not None:
        columns["overhead_s"] = seat.overhead_s
        led_in = {"lead_in_s": rounds.lead_in_s} if rounds.lead_in_s else {}
        held = {"warm_up_s": seat.warm.warm_up_s, "held_s": seat.held_s, **led_in}
        columns["detail"] = record.detail.model_copy(update=held)
    return Measurement(seat.job.item, Record.model_validate({**dict(record), **columns}), seat.held_s)
