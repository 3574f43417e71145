"""The summary of a training run for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from bench.results.training import LoadedTraining
from reports import inputs, terminal, words
from reports.training import story, tables
from reports.training.page import derive

_NARROW = ("Method", "Time to best", "Speed-up to best", "Speed-up to it", "Ended")
_MIDDLE = ("Time to e2e's quality", "Peak memory", "Gradient")


def print_training(run: LoadedTraining, console: Console) -> None:
    """Headline and results, as wide as the console is."""
    frames = derive(run)
    told = inputs.with_left_out(story.tell(frames, run.info), run.points)
    console.print(Text(told.headline, style="bold"))
    for sentence in told.sentences:
        console.print(Text(sentence))
    for table in tables.results(frames):
        first = tables.metric(frames.metrics[0])
        quality = [column.label for column in table.columns if column.label.startswith(first)]
        labels = {*_NARROW, *quality, *(_MIDDLE if console.width >= terminal.MIDDLE else ())}
        console.print()
        console.print(Text(table.title, style="bold"))
        console.print(
            terminal.drawn(
                table,
                labels if console.width < terminal.WIDE else None,
                noted=set(quality) if console.width >= terminal.MIDDLE else set(),
            )
        )
    failed = frames.seeds["outcome"].dropna()
    failed = failed[failed != "ok"]
    if len(failed):
        told_failed = f"{words.count(len(failed), 'training')} failed; summary.md has the reasons."
        console.print(Text(told_failed, style="yellow"))
    for warning in run.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
