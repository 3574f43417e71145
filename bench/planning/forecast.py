"""One case over batch sizes, methods and engines: counts, work, seconds and memory put together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.build.assembly import build_workload, cf_module_class, method_settings
from bench.configuration.case import Case
from bench.configuration.config import Config
from bench.configuration.method_settings import AUTO
from bench.configuration.sweep import MethodLine, WorkItem, takes_ratio
from bench.encoders._base import LoadedEncoder
from bench.methods import exactness, method_class
from bench.planning.coefficients import Chosen
from bench.planning.counts import Estimate, GroupCounts, LogCounts, count
from bench.planning.memory import largest_batch, step_memory
from bench.planning.shapes import CFShape, EncoderShape
from bench.planning.work import METHODS, Line, Step, computed, step_work
from bench.results.forecast import BatchCounts, Count, ForecastLine, Interval, LargestBatch
from bench.results.identity import label
from bench.workloads._base import Workload
from gram_core.methods.multi_step import resolve_accumulation_steps

STREAM_USERS = 256
"""Users of the batches that a log is read in."""
FACTORS = 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8
"""Batch sizes besides those of the sweep, in parts of the user's."""


@dataclass(frozen=True)
class Engine:
    """An engine's encoder, and the calibration that its lines are forecast with."""

    name: str
    shape: EncoderShape
    chosen: Chosen


@dataclass(frozen=True)
class Counted:
    """Counts of all sizes: of a log, or per batch size where batches realise a ratio that is asked for."""

    by_batch: Mapping[int, LogCounts]
    log: LogCounts | None

    def of(self, batch_size: int, steps: int) -> tuple[GroupCounts, GroupCounts]:
        """A batch, and an interval of so many."""
        counts = self.log or self.by_batch[min(self.by_batch, key=lambda size: abs(math.log(size / batch_size)))]
        return counts.at(batch_size), counts.at(batch_size * steps)

    @property
    def any(self) -> LogCounts:
        """One of them."""
        return self.log or next(iter(self.by_batch.values()))

    @property
    def users(self) -> int:
        """Users read of each stream."""
        return max(each.users for each in (self.log, *self.by_batch.values()) if each is not None)

    @property
    def whole(self) -> bool:
        """Whether all are an epoch's."""
        return all(each.whole for each in (self.log, *self.by_batch.values()) if each is not None)


def batch_sizes(case: Case, swept: Sequence[int]) -> tuple[int, ...]:
    """The sweep's, and the case's by powers of two."""
    near = {max(1, round(case.batch_size * factor)) for factor in FACTORS}
    return tuple(sorted({*swept, *near}))


def lines_of(config: Config, case: Case, engines: Sequence[str], swept: Sequence[int | str]) -> tuple[MethodLine, ...]:
    """The modelled methods on these engines, multi_step with each of the accumulation steps but "auto"."""
    found = []
    for engine in engines:
        for method in METHODS:
            asked = [steps for steps in swept if steps != AUTO] if method == "multi_step" else [None]
            found += [MethodLine(method, engine, steps) for steps in asked]
    return tuple(found)


def count_case(
    config: Config, case: Case, loaded: LoadedEncoder, sizes: Sequence[int], lines: Sequence[MethodLine]
) -> tuple[Counted, Workload, tuple[int, ...], list[str]]:
    """Counts of every batch size and its intervals; the workload; the sizes that can be, and why the others cannot.

    Raises ValueError where the workload cannot be built at the case's own size.
    """
    task = cf_module_class(case.cf_module).task
    if not takes_ratio(case.workload):
        own = build_workload(config, case, loaded, task)
        block = min(STREAM_USERS, (own.steps_per_epoch or STREAM_USERS) * case.batch_size)
        stream = own if case.batch_size == block else build_workload(config, _sized(case, block), loaded, task)
        epoch = None if stream.steps_per_epoch is None else stream.steps_per_epoch * block
        possible = tuple(size for size in sizes if epoch is None or size <= epoch)
        left_out = [f"batch_size {size}: the log has {epoch} examples" for size in sizes if size not in possible]
        groups = {size * steps for size in possible for steps in (1, *_intervals(lines, epoch, size))}
        return Counted({}, count(stream, groups)), own, possible, left_out
    by_batch, left_out, workload = {}, [], build_workload(config, case, loaded, task)
    for size in sizes:
        try:
            built = workload if size == case.batch_size else build_workload(config, _sized(case, size), loaded, task)
        except ValueError as error:
            left_out.append(f"batch_size {size}: {error}")
            continue
        epoch = None if built.steps_per_epoch is None else built.steps_per_epoch * size
        by_batch[size] = count(built, {size * steps for steps in (1, *_intervals(lines, epoch, size))})
    return Counted(by_batch, None), workload, tuple(by_batch), left_out


def _sized(case: Case, batch_size: int) -> Case:
    return replace(case, batch_size=batch_size)


def _intervals(lines: Sequence[MethodLine], epoch: int | None, size: int) -> list[int]:
    return [steps_of(line, epoch, size) for line in lines if line.accumulation_steps is not None]


def steps_of(line: MethodLine, epoch: int | None, batch_size: int) -> int:
    """N as a number; raises ValueError for a share of an epoch where there is none."""
    if line.accumulation_steps is None:
        return 1
    return resolve_accumulation_steps(line.accumulation_steps, None if epoch is None else max(1, epoch // batch_size))


def step_of(
    config: Config, case: Case, counted: Counted, shape: EncoderShape, cf: CFShape, line: MethodLine, batch_size: int
) -> Step:
    """What a line of the case is reckoned from, at a batch size."""
    run, kind = config.run, "cuda" if config.run.device == "cuda" else "cpu"
    steps = steps_of(line, counted.any.epoch_users, batch_size)
    own = Line(line.method, line.engine, steps, config.method.get(line.method, {}))
    return Step(own, shape, cf, *counted.of(batch_size, steps), run.optimizer, run.padding, case.text_length, kind)


class Forecaster:
    """Lines of one case."""

    def __init__(
        self, config: Config, case: Case, counted: Counted, cf: CFShape, engines: Sequence[Engine], limit_bytes: float
    ):
        self.config, self.case, self.counted, self.cf = config, case, counted, cf
        self.engines = {engine.name: engine for engine in engines}
        self.limit_bytes = limit_bytes
        self.epoch = counted.any.epoch_users

    def line(self, line: MethodLine, batch_size: int) -> ForecastLine:
        """A method at a batch size."""
        engine = self.engines[line.engine]
        step, error = self._step(line, batch_size)
        reference, reference_error = self._step(MethodLine("e2e", line.engine), batch_size)
        costs = engine.chosen.calibration.costs
        spread = costs.factor(error)
        of_ratio = costs.factor(math.hypot(error, reference_error)) if line.method != "e2e" else 1.0
        peak = self.peak(line, batch_size)
        epoch_steps = None if self.epoch is None else max(1, self.epoch // batch_size)
        method = method_class(line.method)
        work = step_work(self._asked(line, batch_size))
        return ForecastLine(
            method=line.method,
            engine=line.engine,
            tier=engine.shape.tier,
            asked_steps=line.accumulation_steps,
            steps=steps_of(line, self.epoch, batch_size),
            exactness=exactness(method, self.config.run.dropout, self._settings(line), self.config.run.max_grad_norm),
            batch_size=batch_size,
            step_s=_within(step, spread),
            epoch_s=None if epoch_steps is None else _within(epoch_steps * step, spread),
            users_per_s=_within(batch_size / step, spread),
            speed_up=_within(reference / step, of_ratio),
            peak_bytes=peak,
            fits=peak.high <= self.limit_bytes,
            limit="host" if costs.host_s(work) > costs.device_s(work) else "device",
        )

    def peak(self, line: MethodLine, batch_size: int) -> Interval:
        """Peak memory; from shapes alone where the calibration saw none."""
        found = step_memory(self._asked(line, batch_size)).peak
        low, middle, high = self.engines[line.engine].chosen.calibration.memory.peak(found)
        return Interval(value=middle, low=low, high=high)

    def largest(self, line: MethodLine) -> LargestBatch:
        """The most users that fit; of a log no more than it has examples."""
        found = largest_batch(lambda users: self.peak(line, users).high, self.limit_bytes)
        if found is not None and self.epoch is not None:
            found = min(found, self.epoch)
        return LargestBatch(label=label(line.method, line.accumulation_steps), engine=line.engine, batch_size=found)

    def counts(self, batch_size: int, steps: int) -> BatchCounts:
        """As plan.json holds them."""
        _, group = self.counted.of(batch_size, steps)
        padded = computed(
            replace(next(iter(self.engines.values())).shape, tier="padded"),
            self.config.run.padding,
            self.case.text_length,
            "cpu",
            group.slots,
        )
        return BatchCounts(
            batch_size=batch_size,
            steps=steps,
            item_slots=_count(group.slots.texts),
            unique_items=_count(group.unique.texts),
            real_tokens=_count(group.slots.tokens),
            unique_tokens=_count(group.unique.tokens),
            squared_lengths=_count(group.slots.squares),
            padded_tokens=padded.tokens,
            groups=group.groups,
        )

    def _step(self, line: MethodLine, batch_size: int) -> tuple[float, float]:
        """Seconds, and the standard error of their logarithm."""
        asked, costs = self._asked(line, batch_size), self.engines[line.engine].chosen.calibration.costs
        work = step_work(asked)
        of = asked.batch.slots if line.method == "e2e" else asked.interval.unique
        return costs.step_s(work), costs.error(work, of.tokens.relative_error)

    def _asked(self, line: MethodLine, batch_size: int) -> Step:
        shape = self.engines[line.engine].shape
        return step_of(self.config, self.case, self.counted, shape, self.cf, line, batch_size)

    def _settings(self, line: MethodLine) -> object:
        epoch = None if self.epoch is None else max(1, self.epoch // self.case.batch_size)
        return method_settings(method_class(line.method), self.config, WorkItem(self.case, line), epoch)


def _within(value: float, factor: float) -> Interval:
    return Interval(value=value, low=value / factor, high=value * factor)


def _count(of: Estimate) -> Count:
    return Count(mean=of.mean, error=of.error, spread=of.spread)
