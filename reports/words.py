"""How cases, settings and outcomes are named for a reader: plain words for codes."""

from collections.abc import Iterable, Mapping
from typing import Any

from bench.results.identity import Setting, columns_of, line_of
from bench.results.schema import Record
from reports.numbers import exists, plain

Row = Mapping[str, Any]


OUTCOMES = {
    "ok": "measured",
    "oom": "out of memory",
    "timeout": "timed out",
    "error": "failed",
    "skipped": "skipped",
    "absent": "not in this run",
}
SHORT_OUTCOMES = {"oom": "OOM", "timeout": "timeout", "error": "error", "skipped": "skipped", "absent": "not run"}
MEMORY_KINDS = {
    "allocated": "the peak of its CUDA allocator since it started",
    "process": "its resident peak, interpreter and libraries included",
}
ORIGINS = {
    "real": "Real log, real weights",
    "synthetic-log": "Synthetic log, real weights",
    "random-weights": "Random weights",
}
"""Most telling first."""
SETTING_COLUMNS = (
    "workload",
    "encoder",
    "layers",
    "adapter",
    "cf_module",
    "history_length",
    "world_size",
    "deduplicate",
    "precision",
    "engine",
    "dropout",
    "padding",
    "optimizer",
)
"""What stays fixed inside one figure; batch size, text length, repetition ratio and method vary in it."""


def row_of(record: Record) -> dict[str, Any]:
    """A record's case and setting by the names that summaries use, for `setting` and `case`."""
    return {**columns_of(record.case), "engine": record.engine, "dropout": record.dropout}


def by_case(rows: Iterable[Row]) -> dict[Setting, list[Row]]:
    """Rows of a summary that are compared with each other: those of one case and setting."""
    found: dict[Setting, list[Row]] = {}
    for row in rows:
        found.setdefault(line_of(row).setting, []).append(row)
    return found


def origin(row: Mapping[str, Any]) -> str:
    """Which of ORIGINS a row belongs to."""
    if row["weights"] != "real":
        return "random-weights"
    return "real" if row["log"] == "real" else "synthetic-log"


def exactness(row: Mapping[str, Any]) -> str:
    """The label; exactness is claimed for dropout off only."""
    if row["exactness"] == "exact" and row["dropout"] != "off":
        return "exact if dropout off"
    return str(row["exactness"])


def encoder(row: Mapping[str, Any]) -> str:
    """`minilm, first 2 layers`; `minilm with lora` where only adapters are trained."""
    name = plain(row["encoder"])
    if row.get("adapter", "none") != "none":
        name += f" with {plain(row['adapter'])}"
    if not exists(row["layers"]):
        return name
    return f"{name}, first layer" if row["layers"] == 1 else f"{name}, first {plain(row['layers'])} layers"


def processes(row: Mapping[str, Any]) -> str:
    """`2 processes` and, where they share their items, so."""
    shared = {"global": " sharing items", "auto": " sharing items where it pays"}.get(row["deduplicate"], "")
    return f"{plain(row['world_size'])} process{'' if row['world_size'] == 1 else 'es'}{shared}"


def setting(row: Mapping[str, Any]) -> str:
    """What holds for a whole figure, in one line."""
    parts = [
        plain(row["workload"]),
        encoder(row),
        plain(row["cf_module"]),
        f"history {plain(row['history_length'])} items",
    ]
    parts += [plain(row["precision"]), f"engine {plain(row['engine'])}"]
    parts += [processes(row)] if row["world_size"] != 1 else []
    parts += [f"dropout {row['dropout']}"] if row["dropout"] != "off" else []
    return " · ".join(parts)


def case(row: Mapping[str, Any], *, with_setting: bool = True) -> str:
    """One case in one line."""
    parts = [setting(row)] if with_setting else []
    parts += [f"batch {plain(row['batch_size'])} users", f"text {plain(row['text_length'])} tokens"]
    if exists(row["asked_repetition_ratio"]):
        parts.append(f"ratio {plain(row['asked_repetition_ratio'])} asked for")
    return " · ".join(parts)


def short_case(row: Mapping[str, Any]) -> str:
    """One case inside a known setting, as narrow as can be: B 16 L 32 r 4."""
    ratio = row["asked_repetition_ratio"]
    asked = f" r {plain(ratio)}" if exists(ratio) else ""
    return f"B {plain(row['batch_size'])} L {plain(row['text_length'])}{asked}"


def listing(words: Iterable[str]) -> str:
    """`a, b and c`."""
    items = list(words)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" and {items[-1]}" if items else ""


def order(values: Iterable[Any]) -> list[Any]:
    """Distinct axis values, numbers first and ascending, a missing one last."""
    distinct = {value if exists(value) else None for value in values}
    return sorted(distinct, key=lambda v: (v is None, isinstance(v, str), v if v is not None else 0))
