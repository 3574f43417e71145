"""Paired blocks: case by case, block by block, until every speed-up of the case is known well enough.

A block is one set of fresh processes, one per line and one for the canary. Resident together they take turns, a
window each per round (`turns`); where they do not fit into memory they run one after another. A block is on the
disk whole or not at all, so that resuming repeats no finished block and loses none.

Memory. Peaks are counted per process, by torch's allocator as by the kernel, so a neighbour is in nobody's figure. What
a neighbour can change is how the allocator behaves: short of device memory it gives cached blocks back and asks again,
so that `reserved`, and the driver's figure, come out lower than alone; and it may run out where it alone would not. So
- with memory = "solo" each line is run once alone before the first block, for its peaks and nothing else. They decide
  whether the lines fit together, and are in the records of interleaved blocks (detail.memory is "solo").
- with memory = "same" nothing runs twice: the first block is alternated, its processes' peaks decide on the others,
  and each record holds the peaks of the process that was timed (detail.memory is "same" with neighbours).
- an out-of-memory with neighbours is no outcome: the block is taken again, one process after another, and the rest
  of the case as well.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.configuration.sweep import REFERENCE_METHOD, MethodLine, WorkItem
from bench.machine import memory, telemetry
from bench.machine.memory import Room
from bench.machine.telemetry import Watch
from bench.processes.failures import Failure
from bench.processes.messages import Job
from bench.results import store
from bench.results.analysis import stats
from bench.results.schema import POWER_CAP, PeakMemory, Record
from bench.running import oom_pruning
from bench.running.block import Around, Measurement, alone, alternated, interleaved
from bench.running.eta import Pace
from bench.running.events import BlockBegan, Event, Extended, Finished, Planned, Started
from bench.running.recording import write_block
from bench.worker.records import failed_record

LASTING = ("oom", "timeout", "error")
"""Outcomes after which a line is not tried in later blocks of the case."""


def run(
    config: Config,
    run_dir: Path,
    items: Sequence[WorkItem],
    on_event: Callable[[Event], None],
    *,
    watch: Watch | None = None,
    free: Callable[[], Room] | None = None,
) -> None:
    """Measures the cases of `items`, each in at least `run.blocks` blocks, less what `run_dir` holds already.

    watch, free: what tells of the machine meanwhile, and of the memory that workers may take; by default the run's
    device. Raises as `bench.running.manager.run` does.
    """
    loaded = store.load(run_dir)
    uuid = loaded.info.environment.device_uuid if config.run.device == "cuda" else None
    with contextlib.ExitStack() as stack:
        seen = watch or telemetry.watch(stack, uuid)
        paired = _PairedRun(config, run_dir, list(loaded.records), on_event, seen, free or (lambda: memory.free(uuid)))
        paired.measure(items)


class _PairedRun:
    def __init__(
        self,
        config: Config,
        run_dir: Path,
        records: list[Record],
        on_event: Callable[[Event], None],
        watch: Watch,
        free: Callable[[], Room],
    ) -> None:
        self.config, self.run_dir, self.records, self.on_event = config, run_dir, records, on_event
        self.watch, self.free = watch, free
        self.pace = Pace()
        self.todo: list[WorkItem] = []
        self.started: set[WorkItem] = set()
        self.total = self.taken = 0

    def measure(self, items: Sequence[WorkItem]) -> None:
        cases: dict[Case, dict[tuple[MethodLine, int], None]] = {}
        for item in items:
            cases.setdefault(item.case, {})[item.line, item.replica] = None
        measured = [_PairedCase(self, case, tuple(lines)) for case, lines in cases.items()]
        planned = [each.items(block) for each in measured for block in range(self.config.run.blocks)]
        self.todo = [item for block in planned if not self.has(block) for item in block]
        self.total = len(self.todo)
        self.on_event(Planned(self.total, sum(len(block) for block in planned) - self.total))
        for each in measured:
            each.measure()

    def has(self, block: Iterable[WorkItem]) -> bool:
        """Whether a whole block is on the disk."""
        recorded = {record.key for record in self.records}
        return all(item.key in recorded for item in block)

    def extend(self, items: Sequence[WorkItem]) -> None:
        """A block more than was planned."""
        self.todo += items
        self.total += len(items)
        self.on_event(Extended(self.total))

    def starting(self, item: WorkItem) -> None:
        self.started.add(item)
        number = self.taken + len(self.started)
        self.on_event(Started(item, number, self.total, self.pace.remaining_s(self.todo)))

    def write(self, block: Sequence[Measurement]) -> None:
        """Puts a finished block on the disk."""
        records = write_block(self.run_dir, [each.record for each in block])
        self.records += records
        self.started.clear()
        for each, record in zip(block, records, strict=True):
            self.taken += 1
            if each.held_s:
                self.pace.took(each.item, each.held_s)
            self.todo.remove(each.item)
            remaining_s = self.pace.remaining_s(self.todo)
            self.on_event(Finished(each.item, record, self.taken, self.total, each.held_s, remaining_s))


class _PairedCase:
    """One case: its lines, what is known of them, and when it is done."""

    def __init__(self, run: _PairedRun, case: Case, lines: Sequence[tuple[MethodLine, int]]) -> None:
        self.run, self.case, self.lines = run, case, lines
        self.settings = run.config.run
        self.solo: dict[MethodLine, Record] = {}
        """Lines run alone for their peaks."""
        self.block_began_s = 0.0
        self.crowded = False
        """Whether lines that should have fitted together did not."""

    def items(self, block: int) -> list[WorkItem]:
        return [WorkItem(self.case, line, block, replica) for line, replica in self.lines]

    def measure(self) -> None:
        for block in range(self.settings.max_blocks):
            items = self.items(block)
            if self.run.has(items):
                continue
            if block >= self.settings.blocks:
                if self._is_enough() or self._is_overdue():
                    return
                self.run.extend(items)
            self._measure_block(items)

    def _measure_block(self, items: Sequence[WorkItem]) -> None:
        self.block_began_s = began = time.monotonic()
        taken = {item: _untried(self._job(item), why) for item in items if (why := self._hopeless(item))}
        tried = [item for item in items if item not in taken]
        if self.settings.memory == "solo":
            taken |= self._look_alone(tried)
            tried = [item for item in tried if item not in taken]
        if tried:
            taken |= {each.item: self._with_peaks(each) for each in self._take(tried)}
        block_s = time.monotonic() - began
        self.run.write([_noting(taken[item], block_s=block_s, crowded=self.crowded) for item in items])

    def _take(self, items: Sequence[WorkItem]) -> list[Measurement]:
        jobs = [self._job(item) for item in items]
        watching = Around(self.run.watch, self.run.on_event, self.run.starting)
        if self._fit(items):
            self.run.on_event(BlockBegan(self.case, items[0].block, "interleaved"))
            block = interleaved(jobs, watching, capped=self._was_capped(), share_s=self._share_s(items[0].block))
            if not any(self._was_crowded(each) for each in block):
                return block
            self.crowded = True
            self.run.started.clear()
        self.run.on_event(BlockBegan(self.case, items[0].block, "alternated"))
        return alternated(jobs, watching, capped=self._was_capped(), share_s=self._share_s(items[0].block))

    def _was_capped(self) -> bool:
        """Whether the device was at its power cap in an earlier block of the case."""
        telemetries = [record.telemetry for record in self._records() if record.telemetry is not None]
        return any(POWER_CAP in (each.throttle_reasons or ()) for each in telemetries)

    def _was_crowded(self, measurement: Measurement) -> bool:
        """Whether memory ran out that alone would have sufficed."""
        record = measurement.record
        alone = [self.solo.get(measurement.item.line), *self._records(measurement.item.line)]
        shrunk = any(other is not None and _shrank(other) for other in alone)
        return record.outcome == "oom" or (_shrank(record) and not shrunk)

    def _look_alone(self, items: Sequence[WorkItem]) -> dict[WorkItem, Measurement]:
        """Runs alone every line whose needs are unknown; returns the items that this has settled: failures."""
        settled: dict[WorkItem, Measurement] = {}
        unknown = {item.line: item for item in reversed(items) if self._needed(item.line) is None}
        if unknown:
            self.run.on_event(BlockBegan(self.case, items[0].block, "solo"))
        for item in [item for item in items if unknown.get(item.line) == item]:
            measurement = alone(self._job(item), Around(self.run.watch, self.run.on_event, self.run.starting))
            self.run.started.clear()
            if _is_lasting(measurement.record):
                settled[item] = measurement
                twins = [twin for twin in items if twin.line == item.line and twin != item]
                settled |= {twin: _untried(self._job(twin), _failed(measurement.record)) for twin in twins}
            else:
                self.solo[item.line] = measurement.record
        return settled

    def _fit(self, items: Sequence[WorkItem]) -> bool:
        if self.crowded or any(record.detail.crowded for record in self._records()):
            self.crowded = True
            return False
        return memory.fit([self._needed(item.line) for item in items], self.run.free())

    def _needed(self, line: MethodLine) -> Room | None:
        """What a process of the line takes, as seen in this case."""
        seen = [record for record in self._records(line) if record.outcome == "ok"]
        needs = [memory.needed(record) for record in ([self.solo[line]] if line in self.solo else seen)]
        known = [need for need in needs if need is not None]
        return max(known, key=lambda need: (need.device or 0, need.host or 0), default=None)

    def _with_peaks(self, measurement: Measurement) -> Measurement:
        """Notes whose peaks the record holds: with memory = "solo" those of a process without neighbours."""
        record = measurement.record
        if record.schedule != "interleaved":
            return _noting(measurement, memory="solo")
        peaks = self._solo_peaks(measurement.item.line) if self.settings.memory == "solo" else None
        if peaks is None or record.outcome != "ok":
            return _noting(measurement, memory="same")
        changed = record.model_copy(update={"peak_memory_bytes": peaks})
        return _noting(Measurement(measurement.item, changed, measurement.held_s), memory="solo")

    def _solo_peaks(self, line: MethodLine) -> PeakMemory | None:
        if line in self.solo:
            return self.solo[line].peak_memory_bytes
        earlier = [record for record in self._records(line) if record.detail.memory == "solo"]
        return next((record.peak_memory_bytes for record in earlier if record.outcome == "ok"), None)

    def _hopeless(self, item: WorkItem) -> tuple[Failure, Record] | None:
        """Why an item is not tried, and the record that says so."""
        for record in self._records(item.line):
            if _is_lasting(record) and record.block < item.block and record.replica in (0, item.replica):
                return _failed(record)
        observed = oom_pruning.observed_out_of_memory(item, self.run.records)
        return None if observed is None else (oom_pruning.of_observation(observed, item), observed)

    def _is_enough(self) -> bool:
        """Whether the intervals of all speed-ups that can still be measured, and of the canary, are narrow enough."""
        going_on = [each for each in self.lines if self._is_going_on(*each)]
        compared = [pair for each in going_on if (pair := self._pair(*each)) is not None]
        return all(
            stats.enough(
                list(stats.block_values(*pair).values()),
                stats.block_loads(*pair),
                half_width=self.settings.half_width,
                least=self.settings.blocks,
                most=self.settings.max_blocks,
            )
            for pair in compared
        )

    def _pair(self, line: MethodLine, replica: int) -> tuple[list[Record], list[Record]] | None:
        """Records of e2e on the same engine and of the line; None for e2e itself, and where it is not measured."""
        reference = MethodLine(REFERENCE_METHOD, line.engine)
        if (line, replica) == (reference, 0) or not self._is_going_on(reference, 0):
            return None
        return self._replica(reference, 0), self._replica(line, replica)

    def _is_going_on(self, line: MethodLine, replica: int) -> bool:
        """Whether further blocks would measure the line."""
        return (line, replica) in self.lines and not self._hopeless_ever(line, replica)

    def _hopeless_ever(self, line: MethodLine, replica: int) -> bool:
        return self._hopeless(WorkItem(self.case, line, self.settings.max_blocks, replica)) is not None

    def _is_overdue(self) -> bool:
        """Whether another block would overrun the case's budget, going by those that were taken."""
        took_s = self._took_s()
        return sum(took_s) * (1 + 1 / len(took_s)) > self.settings.case_budget_s if took_s else False

    def _share_s(self, block: int) -> float:
        """What this block may still take: its part of what is left of the case's budget, so that rounds fill it."""
        left_s = self.settings.case_budget_s - sum(self._took_s()) - (time.monotonic() - self.block_began_s)
        return left_s / max(1, self.settings.blocks - block)

    def _took_s(self) -> list[float]:
        """Seconds of each block so far."""
        return list({record.block: record.detail.block_s or 0.0 for record in self._records()}.values())

    def _records(self, line: MethodLine | None = None) -> list[Record]:
        axes = self.case.axes()
        return [record for record in self.run.records if record.case == axes and line in (None, _line_of(record))]

    def _replica(self, line: MethodLine, replica: int) -> list[Record]:
        return [record for record in self._records(line) if record.replica == replica]

    def _job(self, item: WorkItem) -> Job:
        return Job(self.run.config, item)


def _line_of(record: Record) -> MethodLine:
    return MethodLine(record.method, record.engine, record.accumulation_steps)


def _shrank(record: Record) -> bool:
    """Whether its worker ran out of memory and went on with a smaller budget."""
    return record.detail.memory_budget_after_oom is not None


def _is_lasting(record: Record) -> bool:
    """Whether the line is not tried again: it failed, or it can't run on this machine."""
    return record.outcome in LASTING or bool(record.detail.lasting)


def _failed(record: Record) -> tuple[Failure, Record]:
    if record.outcome == "skipped":
        return Failure("skipped", record.reason or "", lasting=True), record
    reason = f"{_line_of(record)} failed in block {record.block} ({record.outcome}): {record.reason}"
    return Failure("skipped", reason), record


def _untried(job: Job, why: tuple[Failure, Record]) -> Measurement:
    failure, observed = why
    return Measurement(job.item, failed_record(job, failure, observed.exactness), 0.0)


def _noting(measurement: Measurement, **facts: object) -> Measurement:
    record = measurement.record
    noted = record.model_copy(update={"detail": record.detail.model_copy(update=facts)})
    return Measurement(measurement.item, noted, measurement.held_s)
