"""In which respects a method could not be given its best, and where that holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Where = Literal["everywhere", "against graphs", "measured", "cpu"]


@dataclass(frozen=True)
class Handicap:
    """A sentence for the reader of results.

    only: where it holds. "against graphs": our steps are replayed from captured graphs, its own launched; "measured": a
    few steps are measured, and nothing is trained to its end; "cpu": on processors.
    """

    sentence: str
    only: Where = "everywhere"


UNCAPTURED = Handicap(
    "on the fast engine its steps are launched kernel by kernel; ours are replayed from captured graphs",
    "against graphs",
)
FEW_STEPS = Handicap(
    "a measurement has few warm-up steps: its cache holds less there than in a long training", "measured"
)


def that_hold(handicaps: Iterable[Handicap | str], *, captured: bool, trained: bool, on_cpu: bool) -> list[str]:
    """The sentences that hold; a plain one, as a method of one's own may have, holds everywhere.

    captured: whether our steps are captured there; trained: whether it is trained to the end.
    """
    holds = {"everywhere": True, "against graphs": captured, "measured": not trained, "cpu": on_cpu}
    known = [Handicap(handicap) if isinstance(handicap, str) else handicap for handicap in handicaps]
    return [handicap.sentence for handicap in known if holds[handicap.only]]
