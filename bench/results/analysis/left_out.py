"""What of a log was read and left out, in sentences. Loads without torch.

A workload's facts hold WHAT_read, a number; WHAT_dropped, numbers by reason; WHAT_dropped_examples, where the first is,
by reason. `notes` are sentences about anything else that a reader must know.
"""

from collections.abc import Mapping
from typing import Any

FEW = 0.01
"""Share of what was read that may be left out without a word."""

_DROPPED = "_dropped"


def sentences(name: str, facts: Mapping[str, Any]) -> list[str]:
    """One for each kind of thing of which more than a few were left out, then the notes."""
    found = []
    for key, dropped in facts.items():
        what = key.removesuffix(_DROPPED)
        read = facts.get(f"{what}_read")
        if what == key or not isinstance(dropped, Mapping) or not isinstance(read, int):
            continue
        total = sum(dropped.values())
        if total > FEW * read:
            examples = facts.get(f"{key}_examples", {})
            found.append(
                f"{name}: {total:,} of {read:,} {what.replace('_', ' ')} were left out: {reasons(dropped, examples)}."
            )
    return found + [f"{name}: {note}" for note in facts.get("notes", ())]


def reasons(dropped: Mapping[str, int], examples: Mapping[str, str]) -> str:
    """Every reason with its number, the most frequent first, and an example of each."""
    ordered = sorted(dropped.items(), key=lambda pair: -pair[1])
    return "; ".join(
        f"{number:,} {reason}" + (f" (for instance {examples[reason]})" if reason in examples else "")
        for reason, number in ordered
    )
