"""What a run tells whoever shows its progress: values, in the order they happen."""

from __future__ import annotations

from dataclasses import dataclass

from bench.configuration.case import Case
from bench.configuration.sweep import WorkItem
from bench.results.schema import Record, Schedule
from bench.running.messages import Phase


@dataclass(frozen=True)
class Planned:
    """Before the first measurement: how many there are to take, and how many a former run took already."""

    total: int
    recorded: int


@dataclass(frozen=True)
class Started:
    """A worker begins. number: 1 for the first one of this call, of `total`; eta_s: None before anything is known."""

    item: WorkItem
    number: int
    total: int
    eta_s: float | None


@dataclass(frozen=True)
class PhaseBegan:
    """The worker of `item` says where it is."""

    item: WorkItem
    phase: Phase


@dataclass(frozen=True)
class Finished:
    """`record` is on the disk, whatever its outcome; took_s is 0 where it was skipped without being tried.

    eta_s: time that the rest will take, going by what was measured so far.
    """

    item: WorkItem
    record: Record
    number: int
    total: int
    took_s: float
    eta_s: float | None


@dataclass(frozen=True)
class BlockBegan:
    """A paired block begins, or what precedes it: with schedule "solo" each line runs alone, for its memory."""

    case: Case
    block: int
    schedule: Schedule


@dataclass(frozen=True)
class TookTurn:
    """The worker of `item` has taken its window of a round, between these times of `time.monotonic`."""

    item: WorkItem
    round: int
    began_s: float
    ended_s: float


@dataclass(frozen=True)
class Extended:
    """The case is not known well enough: a block more, so that there are `total` measurements to take."""

    total: int


Event = Planned | Started | PhaseBegan | Finished | BlockBegan | TookTurn | Extended
