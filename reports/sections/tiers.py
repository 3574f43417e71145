"""How the engine ran each encoder: packed texts are several times as fast as padded ones."""

from __future__ import annotations

from bench.results.store import LoadedRun
from bench.results.summary import Frames
from reports import tiers
from reports.sections import Section

PLACE = 12
NOTE = (
    "The fast engine takes the fastest tier that leaves, on a few of the case's own texts, the encodings and gradients "
    "that the model's own forward pass leaves: packed (no padding is computed), padded (texts of like length together) "
    "or the encoder as it was given, as the engine eager runs it."
)


def make(run: LoadedRun, derived: Frames) -> Section | None:
    """None where every engine of the run has one way only."""
    found = tiers.table(run.records)
    return Section("tiers", "How the engine ran encoders", (NOTE,), found, "Tiers") if found else None
