"""Which encoder ran how: packed texts are several times as fast as padded ones."""

from __future__ import annotations

from bench.results.analysis.summary import Frames
from bench.results.store import LoadedRun
from reports.document import Section
from reports.sections import _tiers

PLACE = 12
NOTE = (
    "The fast engine takes the fastest tier that leaves, on a few of the case's own texts, the encodings and gradients "
    "that the model's own forward pass leaves: packed (a pass written for the family, without padding), general (the "
    "model's own code, without padding), padded (texts of like length together) or the encoder as it was given, as the "
    "engine eager runs it. What a method runs instead of the engine's encoder is called its own."
)


def make(run: LoadedRun, derived: Frames) -> Section | None:
    """None where every engine of the run has one way only."""
    found = _tiers.table(run.records)
    return Section("tiers", "Which encoder ran how", (NOTE,), found, "Tiers") if found else None
