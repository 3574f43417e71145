"""What manager and worker say to each other: plain values, so that neither needs the other's imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bench.config import Config
from bench.results.schema import Exactness
from bench.sweep import WorkItem

Phase = Literal["start", "setup", "warm-up", "windows", "facts"]


class Job(NamedTuple):
    """What one worker is started with."""

    config: Config
    item: WorkItem


@dataclass(frozen=True)
class Entered:
    """The worker begins a phase; by then it knows what its method may claim."""

    phase: Phase
    exactness: Exactness | None = None


@dataclass(frozen=True)
class Measured:
    """The worker's last word: a `Record`'s fields, of whatever outcome."""

    record: dict[str, Any]


Message = Entered | Measured
