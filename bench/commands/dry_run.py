"""What `--dry-run` prints: every case, how many measurements that makes, and how long they may take."""

from collections.abc import Mapping

from rich.console import Console

from bench.commands.session import Plan, say
from bench.configuration.case import Case
from bench.progress import count, duration

WORKER_START_S = 2.0
"""Roughly what a worker needs besides its budget."""


def print_plan(plan: Plan, encodings: Mapping[str, str], console: Console) -> None:
    """Cases in the order of measuring, counts, and bounds of the duration.

    encodings: how each encoder encodes.
    """
    run = plan.config.run
    lines: dict[Case, list[str]] = {}
    for item in plan.items:
        if item.block == 0:
            lines.setdefault(item.case, []).append(f"{item.line}{' canary' if item.replica else ''}")
    say(console, plan.title)
    alike = len({tuple(methods) for methods in lines.values()}) == 1
    for number, (case, methods) in enumerate(lines.items(), start=1):
        say(console, f"{number:4}  {case}" + ("" if alike else f": {', '.join(methods)}"))
    if alike:
        say(console, f"Each with {', '.join(next(iter(lines.values())))}.")
    print_encodings(encodings, console)
    blocks = f" in {count(run.blocks, 'block')}" if run.paired else ""
    say(
        console,
        f"{count(len(lines), 'case')}, {count(len(plan.items), 'measurement')}{blocks}, each in a process of its own.",
    )
    if run.paired:
        turns, most_blocks = count(run.rounds, "turn"), count(run.max_blocks, "block")
        say(
            console,
            f"Processes of a block take {turns} each; up to {most_blocks} until speed-ups are "
            f"known to within {run.half_width:.1%}, or {duration(run.case_budget_s)} per case.",
        )
    measurements = len(plan.items)
    windows, blocks_more = (run.rounds, run.max_blocks / run.blocks) if run.paired else (run.min_samples, 1.0)
    least, most = duration(measurements * windows * run.window_s), duration(measurements * blocks_more * run.timeout_s)
    likely = duration(measurements * (run.budget_s + WORKER_START_S))
    say(console, f"At least {least}, at most {most} (run.timeout_s each); {likely} where run.budget_s holds all steps.")


def print_encodings(encodings: Mapping[str, str], console: Console) -> None:
    """How each encoder encodes, a line each."""
    for encoder, words in encodings.items():
        say(console, f"{encoder}: {words}")
