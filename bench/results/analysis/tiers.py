"""How an engine ran an encoder: by which of its tiers, and why by no faster one."""

from collections.abc import Mapping
from typing import NamedTuple

from bench.results.schema import Record
from bench.results.training import TrainingPoint

TIER, WHY = "tier", "why_no_faster_tier"
"""Names of columns of a record, and of entries in a training point's detail."""
OWN = "its own"
"""How a tier's name begins where a method runs no encoder of the engine's."""


class Ran(NamedTuple):
    """What ran, and the reason; None: an engine without tiers, and that there is no faster one."""

    tier: str | None
    why: str | None


def ran(ended: Record | TrainingPoint) -> Ran:
    """As a measurement or a training tells it."""
    if isinstance(ended, Record):
        return Ran(ended.tier, ended.why_no_faster_tier)
    return Ran(ended.detail.tier, ended.detail.why_no_faster_tier)


def fallback(case: Mapping[str, object], engine: str, ran: Ran) -> str | None:
    """One sentence for the one who starts a run; None where the engine's fastest tier ran, or none of its tiers."""
    if ran.why is None or str(ran.tier).startswith(OWN):
        return None
    layers = "" if case.get("layers") is None else f" layers={case['layers']}"
    adapter = "" if case.get("adapter", "none") == "none" else f" adapter={case['adapter']}"
    return f"the engine {engine} runs {case['encoder']}{layers}{adapter} by its tier {ran.tier!r}; {ran.why}"
