"""One of several processes that train together: the same measurement, with decisions and facts that all have in common.

Rank 0's clock decides, and every reading of it waits for the others, so that all ranks take the same steps. Each rank
steps on batches of its own; what is counted is the joined batch.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from bench.build.assembly import Built, build
from bench.machine.cores import compute_threads
from bench.machine.memory import reserved_bytes, resident_peak_bytes
from bench.measure import clock as clocks
from bench.measure.clock import Clock, Window
from bench.measure.sample import batch_counts, encoder_counts
from bench.processes.messages import Job
from bench.results.schema import PeakMemory, Rank, Record
from bench.worker.subject import TAKES, Subject
from gram_core.batch import Batch
from gram_core.distributed import DistributedTraining, Ranks

MUTED_WINDOWS = 3
"""Windows of steps without communication, after the measured ones."""


class JointClock:
    """Rank 0's clock on every rank: when it is read, all ranks have come so far."""

    def __init__(self, own: Clock, ranks: Ranks) -> None:
        self._own, self._ranks = own, ranks

    def now(self) -> float:
        """Rank 0's time."""
        mine = self._own.now() if self._ranks.rank == 0 else 0.0
        return float(self._ranks.host_sum(torch.tensor([mine], dtype=torch.float64)))

    def synchronise(self) -> None:
        """Returns when the devices of all ranks are done."""
        self._own.synchronise()
        self._ranks.host_sum(torch.zeros(1))

    def marks(self) -> tuple[Any, Any] | None:
        """This rank's device's."""
        return self._own.marks()


class RankedSubject(Subject):
    """A subject whose every step, and every decision, is taken by all ranks alike."""

    def __init__(self, job: Job, ranks: Ranks, device: torch.device, ranks_here: int) -> None:
        self.ranks, self._ranks_here = ranks, ranks_here
        own = clocks.CudaClock() if device.type == "cuda" else clocks.HostClock()
        super().__init__(job, JointClock(own, ranks))
        self.device = device

    def record(self) -> Record:
        """The measurement; the same on every rank."""
        record = super().record()
        step_s = statistics.median(record.samples_s)
        unique = [len(batch.items[batch.mask].unique()) for batch in self._own_batches()]
        resident_bytes = resident_peak_bytes()
        muted = self._muted_windows()
        muted_s = statistics.median(window.step_s for window in muted) if muted else None
        device_s = [window.device_step_s for window in muted if window.device_step_s is not None]
        own = Rank(
            peak_memory_bytes=record.peak_memory_bytes,
            resident_peak_bytes=resident_bytes,
            unique_items=statistics.fmean(unique),
            alone_s=statistics.median(device_s) if device_s else None,
        )
        found = tuple(self.ranks.all_values(own))
        columns: dict[str, Any] = {
            "ranks": found,
            "peak_memory_bytes": _largest(found),
            "communication_s": None if muted_s is None else max(0.0, step_s - muted_s),
        }
        resident = [rank.resident_peak_bytes for rank in found]
        total = None if None in resident else sum(bytes_ or 0 for bytes_ in resident)
        facts = {
            "resident_peak_bytes": total,
            "sharding": self.job.config.run.sharding,
            "gradient_sums": self._training.gradient_sums,
            **({"costs": asdict(self._training.costs)} if self._training.costs else {}),
            **({"shared_steps": self._shared_steps()} if self._training.deduplicate == "auto" else {}),
        }
        columns["detail"] = record.detail.model_copy(update=facts)
        return Record.model_validate({**dict(record), **columns})

    def known(self) -> dict[str, Any]:
        """Nothing: what failed here would fail in company, and the others may be gone."""
        return {}

    def _build(self) -> Built:
        return build(self.job.config, self.job.item, self.device, ranks=self.ranks)

    def _threads(self) -> int:
        return max(1, compute_threads(self.device.type) // self._ranks_here)

    def _seed(self) -> int:
        return self.job.config.run.seed + self.ranks.rank  # so that dropout differs, as between users of one process

    def _batch(self, number: int) -> Batch:
        return self.built.workload.batches(number * self.ranks.size + self.ranks.rank)

    def _reserved_bytes(self) -> int:
        return int(self.ranks.host_max(torch.tensor([reserved_bytes(self.device)])))

    def _made_ready(self) -> int:
        return int(self.ranks.host_sum(torch.tensor([super()._made_ready()])))

    def _shared_steps(self) -> float:
        """The part of the measured steps in which items were shared."""
        return statistics.fmean(self._training.shares_items(batch) for batch in self._own_batches())

    def _whole_batch(self, number: int) -> Batch:
        size = self.ranks.size
        return _joined([self.built.workload.batches(number * size + rank) for rank in range(size)])

    def _own_batches(self) -> list[Batch]:
        return [batch for window in self._measured for batch in window]

    def _counts(self, batches: list[Batch]) -> dict[str, Any]:
        built, training = self.built, self._training
        joined = [_joined(parts) for parts in zip(*self.ranks.all_values(batches), strict=True)]
        counts = batch_counts(joined, built.workload.table, built.method.interval)
        if training.deduplicate == "global":
            return {**counts, **encoder_counts(joined, built.workload.table, built.encoder, built.method)}
        shared = [training.shares_items(batch) for batch in batches]
        found = Counter[str]()
        for together in (True, False):
            chosen = [number for number, is_shared in enumerate(shared) if is_shared is together]
            if chosen:
                found.update(self._encoded([joined[n] if together else batches[n] for n in chosen], together))
        return {**counts, **{name: total / len(batches) for name, total in found.items()}}

    def _encoded(self, batches: list[Batch], joined: bool) -> dict[str, float]:
        """Tokens encoded in all of these steps, by all ranks; joined: whether these are all ranks' batches already."""
        own = encoder_counts(batches, self.built.workload.table, self.built.encoder, self.built.method)
        parts = [own] if joined else self.ranks.all_values(own)
        return {name: len(batches) * sum(part[name] or 0.0 for part in parts) for name in own}

    @property
    def _training(self) -> DistributedTraining:
        training = self.built.stepping
        assert isinstance(training, DistributedTraining), "built for several ranks"
        return training

    def _muted_windows(self) -> list[Window]:
        """Windows of steps without communication; none where a step can't do without."""
        training, method = self._training, self.built.method
        if not training.capturable:
            return []
        windows = []
        for _ in range(MUTED_WINDOWS):
            self._prepare(self._units_per_window * method.interval)
            batches, self._ahead = self._ahead, []
            for _ in range(TAKES):
                ready = self._made_ready()
                window = self._muted_window(training.planned(batches))
                if self._made_ready() == ready:
                    break  # else graphs without communication were captured meanwhile
            windows.append(window)
        return windows

    def _muted_window(self, batches: Sequence[Batch]) -> Window:
        def work() -> None:
            for batch in batches:
                self.built.method.step(batch)

        with self._training.muted():
            return clocks.timed(work, len(batches), self.clock)


def _joined(parts: Sequence[Batch]) -> Batch:
    items, mask, targets = (torch.cat([getattr(p, name) for p in parts]) for name in ("items", "mask", "targets"))
    return Batch(items, mask, targets, parts[0].history_length)


def _largest(ranks: Sequence[Rank]) -> PeakMemory:
    def most(kind: str) -> int | None:
        peaks = [getattr(rank.peak_memory_bytes, kind) for rank in ranks]
        return None if None in peaks else max(peaks)

    return PeakMemory(allocated=most("allocated"), reserved=most("reserved"), process=most("process"))
