"""In which respects a method could not be given its best, and where that holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Handicap:
    """A sentence for the reader of results.

    only: where it holds; None is everywhere. "beside graphs": our steps are replayed from captured graphs, its own
    launched; "measured": a few steps are measured, and nothing is trained to its end; "cpu": on processors.
    """

    sentence: str
    only: Literal["beside graphs", "measured", "cpu"] | None = None


def told(handicaps: Iterable[Handicap], *, captured: bool, trained: bool, on_cpu: bool) -> list[str]:
    """The sentences that hold. captured: whether methods have their steps captured there; trained: to the end."""
    holds = {None: True, "beside graphs": captured, "measured": not trained, "cpu": on_cpu}
    return [handicap.sentence for handicap in handicaps if holds[handicap.only]]
