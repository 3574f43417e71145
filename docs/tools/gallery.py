"""Runs of reports/gallery as tables read them, and how their numbers are written in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from bench.results import store, training
from bench.results.analysis.summary import Frames, frames
from bench.results.analysis.training_summary import TrainingFrames
from bench.results.analysis.training_summary import frames as training_frames
from reports import numbers, words

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "reports" / "gallery"

Row = dict[str, Any]


@cache
def run(name: str) -> store.LoadedRun:
    """A run of measured steps."""
    return store.load(GALLERY / name)


@cache
def measured(name: str) -> Frames:
    """Its derived numbers."""
    return frames(run(name).records)


@cache
def trained(name: str) -> TrainingFrames:
    """The derived numbers of a training run."""
    return training_frames(training.load(GALLERY / name).points)


def rows(frame: pd.DataFrame, **axes: object) -> list[Row]:
    """The frame's rows with these values, in the frame's order."""
    for name, value in axes.items():
        frame = frame[frame[name] == value]
    return frame.to_dict("records")


def one(frame: pd.DataFrame, **axes: object) -> Row:
    """The only row with these values; KeyError names them where there is none, or more than one."""
    found = rows(frame, **axes)
    if len(found) != 1:
        raise KeyError(f"{len(found)} rows with {axes}")
    return found[0]


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown. The first column, and those whose name ends in a colon, are aligned to the left."""
    left = [place == 0 or name.endswith(":") for place, name in enumerate(columns)]
    made = [[name.removesuffix(":") for name in columns], ["---" if each else "---:" for each in left], *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in made)


def conditions(name: str, found: Sequence[Row], *columns: str, more: Sequence[str] = ()) -> str:
    """Where, how and when a run was taken, in one line: what these columns say of all rows `found`, then `more`.

    Raises ValueError where rows differ in one of them, which a table would have to show.
    """
    shared: list[str] = []
    for column in columns:
        values = {_SAID[column](row) for row in found}
        if len(values) != 1:
            raise ValueError(f"{name}: {column} is not the same for all rows: {sorted(values)}")
        shared += values
    info = store.read_info(GALLERY / name)
    said = info.environment
    device = f"One {said.device}" if said.device_kind == "cuda" else f"{said.cpu_cores} cores of {said.cpu}"
    parts = [device, f"torch {said.libraries['torch']}", *shared, *more]
    return f"*{', '.join([*parts, info.started_at[:10]])}.*"


_SAID: dict[str, Callable[[Row], str]] = {
    "encoder": lambda row: f"`{words.encoder(row)}`",
    "precision": lambda row: str(row["precision"]),
    "engine": lambda row: f"engine {row['engine']}",
    "cf_module": lambda row: f"`{row['cf_module']}`",
    "users": lambda row: f"{row['batch_size']:g} users a batch",
    "slots": lambda row: f"{row['users']:g} users x {row['item_slots'] / row['users']:g} item slots",
    "texts": lambda row: f"texts of up to {row['text_length']:g} tokens",
    "ratio": lambda row: f"repetition ratio {ratio(row)}",
    "processes": lambda row: "one process per line" if row["ok_blocks"] == 1 else f"{row['ok_blocks']:g} blocks",
}


def ratio(row: Row) -> str:
    """The repetition ratio asked for, or a real log's own."""
    asked = row["asked_repetition_ratio"]
    return f"{asked:g}" if numbers.exists(asked) else numbers.number(row["item_repetition_ratio"], 2)


def code(label: str) -> str:
    """`multi_step` N=16: the method's name as code."""
    name, _, rest = label.partition(" ")
    return f"`{name}` {rest}".strip()


def interval(row: Row, name: str) -> str:
    """(1.86 to 1.92×), empty where there is none."""
    written = numbers.ratio_range(row[f"{name}_low"], row[f"{name}_high"])
    return f"({written})" if written else ""


def ms(row: Row) -> str:
    """A step's median time, with the digits that its windows leave known."""
    return f"{numbers.milliseconds(row['median_s'], row['scatter'])} ms"


def memory(row: Row) -> str:
    """Peak memory, with its unit."""
    return numbers.gibibytes(row["memory_bytes"])


def share(row: Row) -> str:
    """Peak memory as a part of e2e's."""
    return numbers.percent(row["memory_ratio"])
