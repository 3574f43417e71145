"""Tables as values: page, Markdown and terminal print the same cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from bench.results.analysis.summary import REFERENCE, UNIQUE_REFERENCE, Frames
from bench.results.schema import RunInfo
from reports import numbers, words

Row = Mapping[str, Any]
T = TypeVar("T")

MAY_BE_ONE = f"may be 1{numbers.TIMES}"
"""Of a ratio whose interval holds 1."""
HOLDS_ONE = f"{MAY_BE_ONE.capitalize()}: the 95 % interval holds 1, so that there may be no difference."
HEADLINE_CASES = 12
"""Cases that a headline table shows in full; more would bury the few that a reader came for."""
SHARED = {"global": "items shared", "auto": "items shared where it pays"}
"""Of several processes, by `deduplicate`."""


MIDDLE, WIDE = 110, 150
"""Columns of text from which on a terminal shows further columns of a table."""


@dataclass(frozen=True)
class Column:
    """A heading; the unit holds for every number below it that names none itself."""

    label: str
    unit: str = ""
    numeric: bool = True
    short: str = ""
    """Label and unit for a narrow window; empty where the label will do."""
    from_width: int = 0
    """The narrowest terminal that shows it."""
    noted: bool = False
    """Whether a terminal shows its cells' notes where there is room."""


@dataclass(frozen=True)
class Cell:
    """`kind` says how to show it (muted, bad, badge, strong, or prose, which wraps); `bar` is a length between 0 and 1;
    `note` is small."""

    text: str
    kind: str = ""
    note: str = ""
    bar: float | None = None
    short: str = ""
    """What replaces text and note where there is no room for the note; empty where the text will do."""


@dataclass(frozen=True)
class Group:
    """Rows under one heading, which may have a short form; an empty title prints none."""

    title: str
    rows: tuple[tuple[Cell, ...], ...]
    short: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `left_out` counts the rows that were not made, for a reader to look up in summary.csv."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    caption: str = ""
    left_out: int = 0
    title: str = ""

    @property
    def rows(self) -> int:
        """Rows in all groups."""
        return sum(len(group.rows) for group in self.groups)

    @property
    def below(self) -> str:
        """The caption, and what MAY_BE_ONE means where a cell says so."""
        found = any(MAY_BE_ONE in cell.note for group in self.groups for row in group.rows for cell in row)
        return " ".join(part for part in (self.caption, HOLDS_ONE if found else "") if part)


def grouped(
    columns: tuple[Column, ...],
    entries: Iterable[T],
    line: Callable[[T], tuple[str, tuple[Cell, ...]]],
    limit: int,
    title: str = "",
) -> Table:
    """Entries as rows under the titles that `line` gives with their cells, at most `limit` of them."""
    every = list(entries)
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for heading, cells in map(line, every[:limit]):
        groups.setdefault(heading, []).append(cells)
    made = tuple(Group(heading, tuple(rows)) for heading, rows in groups.items())
    return Table(columns, made, left_out=max(0, len(every) - limit), title=title)


MFU = "MFU"
"""Useful operations per second, as a part of the matrix rate that was measured with them."""

HEADLINE_COLUMNS = (
    Column("Method", numeric=False),
    Column("Repetition ratio", "item slots / unique items", short="Repetition"),
    Column("Speed-up against e2e", short="vs e2e", noted=True),
    Column("Against e2e_unique", short="vs e2e_unique", from_width=MIDDLE),
    Column("Time per step", "ms", short="ms/step"),
    Column(MFU, "%", from_width=WIDE),
    Column("Users", "per s", short="users/s", from_width=WIDE),
    Column("Real tokens", "per s", short="real tokens/s", from_width=WIDE),
    Column("Peak memory"),
    Column("of e2e's", "%", short="% of e2e's", from_width=WIDE),
    Column("Gradient", numeric=False, from_width=MIDDLE),
    Column("Outcome", numeric=False),
)

COST_COLUMNS = (
    Column("Computed tokens", "per real token"),
    Column("Device waits for the host", "ms per step"),
    Column("Set-up", "s"),
)
"""What lies around the arithmetic: padding, waiting, and compilation, capture and loading before the first window."""

CASE_COLUMNS = (
    Column("Workload", numeric=False),
    Column("Encoder", numeric=False),
    Column("CF module", numeric=False),
    Column("Precision", numeric=False),
    Column("Engine", numeric=False),
    Column("Processes"),
    Column("Batch", "users"),
    Column("History", "items"),
    Column("Text", "tokens"),
    Column("Ratio asked for"),
)


def origins(frames: Frames) -> dict[str, Frames]:
    """The frames split by where their input comes from, the most telling first; only what the run holds."""
    kinds = [
        pd.Series(
            [words.origin(row) for row in frame[["weights", "log"]].to_dict("records")], frame.index, dtype=object
        )
        for frame in (frames.records, frames.summary, frames.engines)
    ]
    split = {}
    for origin in words.ORIGINS:
        records, summary, engines = (kind == origin for kind in kinds)
        if summary.any():
            split[origin] = Frames(frames.records[records], frames.summary[summary], frames.engines[engines])
    return split


def headlines(frames: Frames) -> tuple[Table, ...]:
    """Every method side by side, case by case: one table for each setting (encoder, precision, engine, ...)."""
    settings: dict[str, list[Row]] = {}
    for row in frames.summary.to_dict("records"):
        settings.setdefault(words.setting(row), []).append(row)
    return tuple(_headline(title, rows) for title, rows in settings.items())


def _headline(title: str, rows: list[Row]) -> Table:
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(words.case(row, with_setting=False), []).append(row)
    chosen, caption = _telling_cases(cases)
    speed_ups = [row["speed_up"] for lines in chosen.values() for row in lines if numbers.exists(row["speed_up"])]
    fastest = max([1.0, *speed_ups])
    groups = tuple(
        Group(case, tuple(_measures(row, fastest) for row in lines), words.short_case(lines[0]))
        for case, lines in chosen.items()
    )
    left_out = len(rows) - sum(len(lines) for lines in chosen.values())
    return without_empty(Table(HEADLINE_COLUMNS, groups, caption, left_out, title), MFU)


def _telling_cases(cases: dict[str, list[Row]]) -> tuple[dict[str, list[Row]], str]:
    """All cases where they are few; else the largest batch and text that e2e still measured."""
    if len(cases) <= HEADLINE_CASES:
        return cases, ""
    sizes = {
        case: _size(lines[0])
        for case, lines in cases.items()
        if any(row["method"] == REFERENCE and row["outcome"] == "ok" for row in lines)
    }
    largest = max(sizes.values(), default=None)
    chosen = [case for case in cases if sizes.get(case) == largest][:HEADLINE_CASES]
    caption = "Shown: the largest batch and text that e2e could still train on." if sizes else "Shown: the first cases."
    return {case: cases[case] for case in chosen}, caption


def _size(row: Row) -> tuple[float, float]:
    """Tokens of a batch up to a factor, and the batch itself to break ties."""
    batch, text = float(row["batch_size"] or 0), float(row["text_length"] or 0)
    return batch * text, batch


def _measures(row: Row, fastest: float | None = None) -> tuple[Cell, ...]:
    """The cells of HEADLINE_COLUMNS; with bars that end at `fastest`, where it is given."""
    ratio = Cell(numbers.number(row["item_repetition_ratio"]))
    if numbers.exists(row["interval_repetition_ratio"]):
        ratio = Cell(ratio.text, note=f"{numbers.number(row['interval_repetition_ratio'])} per interval")
    blocks = f"{numbers.plain(row['ok_blocks'])} of {numbers.count(int(row['blocks']), 'block')}"
    outcome = Cell(words.OUTCOMES[row["outcome"]], "muted" if row["outcome"] == "ok" else "bad")
    if row["outcome"] == "ok" and row["ok_blocks"] < row["blocks"]:
        outcome = Cell(outcome.text, "bad", note=blocks)
    return (
        Cell(row["label"], "strong"),
        ratio,
        _speed_up(row, "speed_up", "reference_outcome", REFERENCE, fastest),
        _speed_up(row, "speed_up_unique", "unique_reference_outcome", UNIQUE_REFERENCE),
        Cell(numbers.milliseconds(row["median_s"], row["scatter"])),
        Cell(numbers.utilisation(row["mfu"])),
        Cell(numbers.rate(row["users_per_s"], row["scatter"])),
        Cell(numbers.rate(row["real_tokens_per_s"], row["scatter"])),
        Cell(numbers.gibibytes(row["memory_bytes"])),
        Cell(numbers.percent(row["memory_ratio"]).removesuffix(" %")),
        Cell(words.exactness(row), "badge"),
        outcome,
    )


def _speed_up(row: Row, name: str, outcome: str, reference: str, fastest: float | None = None) -> Cell:
    """The speed-up, or why there is none although the row itself was measured."""
    value = row[name]
    if numbers.exists(value):
        if row["method"] == reference:
            return Cell(numbers.times(value), "muted")
        cell = ratio_cell(row, name)
        return replace(cell, bar=min(1.0, value / fastest)) if fastest is not None and cell.kind else cell
    if row["outcome"] != "ok" or row[outcome] == "ok":
        return Cell(numbers.MISSING, "muted")
    return Cell(numbers.MISSING, "muted", note=f"{reference} {words.OUTCOMES[row[outcome]]}")


def ratio_cell(row: Row, name: str) -> Cell:
    """A ratio with its interval; no result to point at where the interval leaves open that there is no difference."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    text, spread = numbers.speed_up(row, name), numbers.ratio_range(low, high)
    if not spread:
        return Cell(text, "strong")
    short = f"{text} ±{numbers.percent((high / low) ** 0.5 - 1)}"
    if numbers.may_be_one(low, high):
        return Cell(text, "", f"{spread}, {MAY_BE_ONE}", short=f"{text}, {MAY_BE_ONE}")
    return Cell(text, "strong", spread, short=short)


def every_result(frames: Frames, limit: int = 500) -> Table:
    """One row per case and method; at most `limit` of them."""
    columns = (*CASE_COLUMNS, *HEADLINE_COLUMNS, *COST_COLUMNS)
    rows = frames.summary.to_dict("records")
    made = grouped(columns, rows, lambda row: ("", (*_axes(row), *_measures(row), *_costs(row))), limit)
    return without_empty(made, MFU)


def without_empty(table: Table, *labels: str) -> Table:
    """The table less those columns of these labels in which no line has anything to say."""
    rows = [row for group in table.groups for row in group.rows]
    kept = [
        place
        for place, column in enumerate(table.columns)
        if column.label not in labels or any(row[place].text not in ("", numbers.MISSING) for row in rows)
    ]
    groups = tuple(
        replace(group, rows=tuple(tuple(row[place] for place in kept) for row in group.rows)) for group in table.groups
    )
    return replace(table, columns=tuple(table.columns[place] for place in kept), groups=groups)


def _costs(row: Row) -> tuple[Cell, ...]:
    """The cells of COST_COLUMNS."""
    tokens, computed = row["encoded_tokens"], row["padded_tokens"]
    padding = computed / tokens if numbers.exists(tokens) and numbers.exists(computed) and tokens else None
    return (
        Cell(numbers.number(padding)),
        Cell(numbers.milliseconds(row["host_wait_s"], row["scatter"])),
        Cell(numbers.number(row["setup_s"], 2)),
    )


def _axes(row: Row) -> tuple[Cell, ...]:
    """The cells of CASE_COLUMNS."""
    return (
        Cell(numbers.plain(row["workload"])),
        Cell(words.encoder(row), note="random weights" if row["weights"] != "real" else ""),
        Cell(numbers.plain(row["cf_module"])),
        Cell(numbers.plain(row["precision"])),
        Cell(numbers.plain(row["engine"])),
        Cell(numbers.plain(row["world_size"]), note=SHARED.get(row["deduplicate"], "")),
        Cell(numbers.plain(row["batch_size"])),
        Cell(numbers.plain(row["history_length"])),
        Cell(numbers.plain(row["text_length"])),
        Cell(numbers.plain(row["asked_repetition_ratio"])),
    )


def engines(frames: Frames, limit: int = 60) -> Table:
    """What the engine gains and what the method gains, where a run holds more than one engine."""
    columns = (
        Column("Method", numeric=False),
        Column("Engine's share", "e2e eager / e2e engine"),
        Column("Method's share", "e2e / method, same engine"),
        Column("Together", "e2e eager / method"),
        Column("Time per step", "ms"),
    )

    def line(row: Row) -> tuple[str, tuple[Cell, ...]]:
        return words.case(row), (
            Cell(row["label"], "strong"),
            *(replace(ratio_cell(row, share), kind="") for share in ("engine_share", "method_share")),
            ratio_cell(row, "total"),
            Cell(numbers.milliseconds(row["median_s"], row["scatter"])),
        )

    rows = frames.engines[frames.engines["engine_share"].notna()]
    return grouped(columns, rows.to_dict("records"), line, limit)


def precision(frames: Frames, limit: int = 200) -> Table:
    """How well each speed-up against e2e is known: of lines that were measured in several blocks."""
    columns = (
        Column("Method", numeric=False),
        Column("Speed-up against e2e"),
        Column("95 % interval"),
        Column("Half-width", "%"),
        Column("Blocks"),
        Column("Hodges-Lehmann"),
        Column("e2e against itself", "95 % interval"),
        Column("Notes", numeric=False),
    )

    def line(row: Row) -> tuple[str, tuple[Cell, ...]]:
        low, high = row["speed_up_low"], row["speed_up_high"]
        return words.case(row), (
            Cell(row["label"], "strong"),
            Cell(numbers.speed_up(row), ratio_cell(row, "speed_up").kind),
            Cell(numbers.ratio_range(low, high), note=MAY_BE_ONE if numbers.may_be_one(low, high) else ""),
            Cell(numbers.percent(row["speed_up_half_width"]).removesuffix(" %")),
            Cell(numbers.plain(row["speed_up_blocks"])),
            Cell(numbers.times(row["speed_up_hodges_lehmann"], low, high)),
            Cell(numbers.ratio_range(row["canary_low"], row["canary_high"]) or numbers.MISSING, "muted"),
            Cell(row["speed_up_notes"], "bad" if row["speed_up_notes"] else ""),
        )

    summary = frames.summary
    rows = summary[summary["speed_up_half_width"].notna() & (summary["method"] != REFERENCE)]
    return grouped(columns, rows.to_dict("records"), line, limit)


def not_measured(frames: Frames, limit: int = 200) -> Table:
    """Every record without a number, with its reason; equal ones of several blocks are one row."""
    columns = (
        Column("Case", numeric=False),
        Column("Method", numeric=False),
        Column("Outcome", numeric=False),
        Column("Reason", numeric=False),
    )
    seen: dict[tuple[str, ...], int] = {}
    for row in frames.records[frames.records["outcome"] != "ok"].to_dict("records"):
        setting, case = words.setting(row), words.case(row, with_setting=False)
        reason = row["reason"] or "no reason was recorded"
        key = (setting, case, row["label"], words.OUTCOMES[row["outcome"]], reason)
        seen[key] = seen.get(key, 0) + 1

    def line(entry: tuple[tuple[str, ...], int]) -> tuple[str, tuple[Cell, ...]]:
        (setting, case, label, outcome, reason), blocks = entry
        note = f"{blocks} blocks" if blocks > 1 else ""
        return setting, (Cell(case), Cell(label, "strong"), Cell(outcome, "bad", note), Cell(reason))

    return grouped(columns, seen.items(), line, limit)


def environment(info: RunInfo) -> list[tuple[str, str]]:
    """Where the run was measured: names and values."""
    place = info.environment
    dirty = {True: " with uncommitted changes", False: "", None: " (state unknown)"}[place.git_dirty]
    clocks = ", ".join(f"{name} {value} MHz" for name, value in place.clocks_mhz.items() if value is not None)
    lines = [
        ("Device", place.device),
        ("Kind", place.device_kind),
        ("UUID", place.device_uuid),
        ("Device memory", numbers.gibibytes(place.device_memory_bytes) if place.device_memory_bytes else None),
        ("Driver", place.driver),
        ("Clocks", clocks),
        ("Power limit", f"{numbers.plain(place.power_limit_w)} W" if place.power_limit_w is not None else None),
        ("Processor", f"{place.cpu}, {numbers.count(place.cpu_cores, 'core')}"),
        ("Host memory", numbers.gibibytes(place.host_memory_bytes)),
        ("System", place.os),
        ("Python", place.python),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in place.libraries.items())),
        ("Code", f"{place.git_sha}{dirty}" if place.git_sha else None),
        ("Started", numbers.moment(info.started_at)),
        ("Preset", info.preset),
    ]
    return [(name, value) for name, value in lines if value]


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown; a group's title becomes a row of its own."""
    heads = [column.label + (f" ({column.unit})" if column.unit else "") for column in table.columns]
    lines = ["| " + " | ".join(escape(head) for head in heads) + " |"]
    lines.append("|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|")
    for group in table.groups:
        if group.title:
            lines.append("| **" + escape(group.title) + "** |" + " |" * (len(table.columns) - 1))
        for row in group.rows:
            texts = [escape(f"{cell.text} ({cell.note})" if cell.note else cell.text) for cell in row]
            lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text that neither Markdown nor the HTML inside it reads as markup."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
    for sign in "\\`*_|[]":
        text = text.replace(sign, "\\" + sign)
    return text
