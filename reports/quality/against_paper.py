"""Each line next to what the paper reports of the same method: on its own logs, with its own machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.training_summary import TrainingFrames
from reports import words
from reports.document import Section
from reports.quality import paper
from reports.quality.paper import DataSet
from reports.quality.tables import between, difference
from reports.tables import Cell, Column, Group, Table, ratio_cell

Row = Mapping[str, Any]

TITLES = {4: "the paper's Table 4, knowledge tracing", 5: "the paper's Table 5, news recommendation"}
NOTE = (
    "The paper's figures are of other logs, another encoder (TinyBERT, 6 layers of 768), its own end-to-end code and "
    "other machines (A100s; one for Duolingo, eight elsewhere): what can be compared is which method gains, and what "
    "it costs in quality, not the number. Its speed-ups are wall-clock to convergence, as this run's time to best is; "
    "below each is its AUC less that of end-to-end training, in points, and cold-start AUC likewise, if it has it."
)


def section(frames: TrainingFrames) -> Section | None:
    """None where the paper has none of the trained lines."""
    done = [row for row in frames.summary.to_dict("records") if row["outcome"] == "ok"]
    tables = [_table(words.case(rows[0]), rows) for rows in words.by_case(done).values()]
    found = tuple(table for table in tables if table is not None)
    return Section("paper", "Next to the paper", (NOTE,), found, "Paper") if found else None


def _table(case: str, rows: Sequence[Row]) -> Table | None:
    task = "ranking" if any(words.exists(row.get("test_mrr")) for row in rows) else "response"
    others = [row for row in rows if row["method"] != REFERENCE]
    logs = [log for log in paper.of_task(task) if any(row["label"] in log.lines for row in others)]
    if not logs:
        return None
    known = [row for row in others if any(row["label"] in log.lines for log in logs)]
    columns = (
        Column("Method", numeric=False),
        Column("Speed-up to best", "this run"),
        Column("AUC against e2e's", "this run, points"),
        *(Column(log.name, f"paper, Table {log.table}") for log in logs),
    )
    made = tuple(
        (Cell(row["label"], "strong"), *_own(row), *(_theirs(log, row["label"]) for log in logs)) for row in known
    )
    return Table(columns, (Group("", made),), title=f"{case} · next to {TITLES[logs[0].table]}")


def _own(row: Row) -> tuple[Cell, Cell]:
    spread = between(row.get("difference_auc_low"), row.get("difference_auc_high"), signed=True)
    return (
        ratio_cell(row, "speed_up_best"),
        Cell(difference(row.get("difference_auc")), "", spread),
    )


def _theirs(log: DataSet, label: str) -> Cell:
    line = log.lines.get(label)
    if line is None:
        return Cell(words.MISSING, "muted")
    auc, cold = log.difference(label), log.difference(label, "cold_auc")
    parts = [] if auc is None else [f"AUC {_signed(auc)}"]
    parts += [] if cold is None else [f"cold {_signed(cold)}"]
    return Cell(words.times(line.speed_up), "", ", ".join(parts) or "e2e only estimated")


def _signed(points: float) -> str:
    return difference(points / 100)
