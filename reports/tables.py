"""The tables of a run's page: each a tuple of columns, which say what of a line they show."""

from dataclasses import replace

import pandas as pd

from bench.results.analysis.summary import REFERENCE, UNIQUE_REFERENCE, Frames
from bench.results.schema import RunInfo
from reports import numbers, words
from reports.table import (
    MAY_BE_ONE,
    MIDDLE,
    WIDE,
    Cell,
    Column,
    Row,
    Table,
    gradient,
    group,
    grouped,
    label,
    outcome,
    plain,
    rate,
    ratio_cell,
    step_time,
    text,
)  # fmt: skip

HEADLINE_CASES = 12
"""Cases that a headline table shows in full; more would bury the few that a reader came for."""
SHARED = {"global": "items shared", "auto": "items shared where it pays"}
"""Of several processes, by `deduplicate`."""
MFU = "MFU"
"""Useful operations per second, as a part of the matrix rate that was measured with them."""


def _ratio(row: Row) -> Cell:
    over = row["interval_repetition_ratio"]
    note = f"{numbers.number(over)} per interval" if numbers.exists(over) else ""
    return Cell(numbers.number(row["item_repetition_ratio"]), note=note)


def _ended(row: Row) -> Cell:
    if row["outcome"] != "ok" or row["ok_blocks"] == row["blocks"]:
        return outcome(row)
    blocks = f"{numbers.plain(row['ok_blocks'])} of {numbers.count(int(row['blocks']), 'block')}"
    return replace(outcome(row), kind="bad", note=blocks)


def _against_e2e(row: Row) -> Cell:
    """With a bar that ends at the table's fastest line, where the row names it."""
    cell, fastest = _speed_up(row, "speed_up", "reference_outcome", REFERENCE), row.get("fastest")
    bar = row["method"] != REFERENCE and numbers.exists(row["speed_up"]) and fastest is not None and cell.kind
    return replace(cell, bar=min(1.0, row["speed_up"] / fastest)) if bar else cell


def _speed_up(row: Row, name: str, ended: str, reference: str) -> Cell:
    """The speed-up, or why there is none although the row itself was measured."""
    if numbers.exists(row[name]):
        return Cell(numbers.times(row[name]), "muted") if row["method"] == reference else ratio_cell(row, name)
    known = row["outcome"] != "ok" or row[ended] == "ok"
    return Cell(numbers.MISSING, "muted", note="" if known else f"{reference} {words.OUTCOMES[row[ended]]}")


def _padding(row: Row) -> str:
    tokens, computed = row["encoded_tokens"], row["padded_tokens"]
    return numbers.number(computed / tokens if numbers.exists(tokens) and numbers.exists(computed) and tokens else None)


HEADLINE_COLUMNS = (
    text("Method", label),
    Column("Repetition ratio", _ratio, "item slots / unique items", short="Repetition"),
    Column("Speed-up against e2e", _against_e2e, short="vs e2e", noted=True),
    Column(
        "Against e2e_unique",
        lambda row: _speed_up(row, "speed_up_unique", "unique_reference_outcome", UNIQUE_REFERENCE),
        short="vs e2e_unique",
        from_width=MIDDLE,
    ),
    Column("Time per step", step_time, "ms", short="ms/step"),
    Column(MFU, lambda row: numbers.percentage(row["mfu"]), "%", from_width=WIDE),
    Column("Users", rate("users_per_s"), "per s", short="users/s", from_width=WIDE),
    Column("Real tokens", rate("real_tokens_per_s"), "per s", short="real tokens/s", from_width=WIDE),
    Column("Peak memory", lambda row: numbers.gibibytes(row["memory_bytes"])),
    Column("of e2e's", lambda row: numbers.percentage(row["memory_ratio"]), "%", short="% of e2e's", from_width=WIDE),
    text("Gradient", gradient, from_width=MIDDLE),
    text("Outcome", _ended),
)
COST_COLUMNS = (
    Column("Computed tokens", _padding, "per real token"),
    Column(
        "Device waits for the host", lambda row: numbers.milliseconds(row["host_wait_s"], row["scatter"]), "ms per step"
    ),
    Column("Set-up", lambda row: numbers.number(row["setup_s"], 2), "s"),
)
"""What lies around the arithmetic: padding, waiting, and compilation, capture and loading before the first window."""
CASE_COLUMNS = (
    text("Workload", plain("workload")),
    text("Encoder", lambda row: Cell(words.encoder(row), note="random weights" if row["weights"] != "real" else "")),
    text("CF module", plain("cf_module")),
    text("Precision", plain("precision")),
    text("Engine", plain("engine")),
    Column("Processes", lambda row: Cell(plain("world_size")(row), note=SHARED.get(row["deduplicate"], ""))),
    Column("Batch", plain("batch_size"), "users"),
    Column("History", plain("history_length"), "items"),
    Column("Text", plain("text_length"), "tokens"),
    Column("Ratio asked for", plain("asked_repetition_ratio")),
)
ENGINE_COLUMNS = (
    text("Method", label),
    Column("Engine's share", lambda row: replace(ratio_cell(row, "engine_share"), kind=""), "e2e eager / e2e engine"),
    Column(
        "Method's share", lambda row: replace(ratio_cell(row, "method_share"), kind=""), "e2e / method, same engine"
    ),
    Column("Together", lambda row: ratio_cell(row, "total"), "e2e eager / method"),
    Column("Time per step", step_time, "ms"),
)
PRECISION_COLUMNS = (
    text("Method", label),
    Column("Speed-up against e2e", lambda row: Cell(numbers.speed_up(row), ratio_cell(row, "speed_up").kind)),
    Column(
        "95 % interval",
        lambda row: Cell(
            numbers.ratio_range(row["speed_up_low"], row["speed_up_high"]),
            note=MAY_BE_ONE if numbers.may_be_one(row["speed_up_low"], row["speed_up_high"]) else "",
        ),
    ),
    Column("Half-width", lambda row: numbers.percentage(row["speed_up_half_width"]), "%"),
    Column("Blocks", plain("speed_up_blocks")),
    Column(
        "Hodges-Lehmann",
        lambda row: numbers.times(row["speed_up_hodges_lehmann"], row["speed_up_low"], row["speed_up_high"]),
    ),
    Column(
        "e2e against itself",
        lambda row: Cell(numbers.ratio_range(row["canary_low"], row["canary_high"]) or numbers.MISSING, "muted"),
        "95 % interval",
    ),
    text("Notes", lambda row: Cell(row["speed_up_notes"], "bad" if row["speed_up_notes"] else "")),
)
FAILED_COLUMNS = (
    text("Case", lambda row: row["case"]),
    text("Method", label),
    text("Outcome", lambda row: replace(outcome(row), note=f"{row['blocks']} blocks" if row["blocks"] > 1 else "")),
    text("Reason", lambda row: row["reason"]),
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
        group(HEADLINE_COLUMNS, case, ({**row, "fastest": fastest} for row in lines), words.short_case(lines[0]))
        for case, lines in chosen.items()
    )
    left_out = len(rows) - sum(len(lines) for lines in chosen.values())
    return Table(HEADLINE_COLUMNS, groups, caption, left_out, title).without_empty(MFU)


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
    batch = float(row["batch_size"] or 0)
    return batch * float(row["text_length"] or 0), batch


def every_result(frames: Frames, limit: int = 500) -> Table:
    """One row per case and method; at most `limit` of them."""
    columns = (*CASE_COLUMNS, *HEADLINE_COLUMNS, *COST_COLUMNS)
    return grouped(columns, frames.summary.to_dict("records"), limit).without_empty(MFU)


def engines(frames: Frames, limit: int = 60) -> Table:
    """What the engine gains and what the method gains, where a run holds more than one engine."""
    rows = frames.engines[frames.engines["engine_share"].notna()]
    return grouped(ENGINE_COLUMNS, rows.to_dict("records"), limit, words.case)


def precision(frames: Frames, limit: int = 200) -> Table:
    """How well each speed-up against e2e is known: of lines that were measured in several blocks."""
    summary = frames.summary
    rows = summary[summary["speed_up_half_width"].notna() & (summary["method"] != REFERENCE)]
    return grouped(PRECISION_COLUMNS, rows.to_dict("records"), limit, words.case)


def not_measured(frames: Frames, limit: int = 200) -> Table:
    """Every record without a number, with its reason; equal ones of several blocks are one row."""
    seen: dict[tuple[str, ...], int] = {}
    for row in frames.records[frames.records["outcome"] != "ok"].to_dict("records"):
        setting, case = words.setting(row), words.case(row, with_setting=False)
        key = (setting, case, row["label"], row["outcome"], row["reason"] or "no reason was recorded")
        seen[key] = seen.get(key, 0) + 1
    names = ("setting", "case", "label", "outcome", "reason")
    lines = [{**dict(zip(names, key, strict=True)), "blocks": blocks} for key, blocks in seen.items()]
    return grouped(FAILED_COLUMNS, lines, limit, lambda line: str(line["setting"]))


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
