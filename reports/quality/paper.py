"""What the paper reports of its own logs, as facts: its Tables 4 (knowledge tracing) and 5 (news recommendation).

Speed-ups are wall-clock to convergence against its end-to-end training, on A100s (one for Duolingo, eight elsewhere).
That code encodes each unique item once in knowledge tracing and every slot in news recommendation, so that the two
tables' speed-ups are not one quantity. Qualities are AUC in points, of a hundred.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from bench.results.analysis.stats import REFERENCE
from bench.results.analysis.training_summary import TrainingFrames
from reports import numbers, words
from reports.document import Section
from reports.quality.tables import between, difference
from reports.table import Cell, Column, Row, Table, group, label, ratio_cell, text


@dataclass(frozen=True)
class Reported:
    """One method on one log. auc, cold_auc: points; None where the paper has none. speed_up: None for e2e."""

    auc: float | None
    speed_up: float | None = None
    cold_auc: float | None = None


@dataclass(frozen=True)
class DataSet:
    """A log of the paper's. key: the `shape:` workload of its sizes. table: the paper's, by number."""

    name: str
    key: str
    task: Literal["response", "ranking"]
    table: int
    lines: Mapping[str, Reported]

    def difference(self, label: str, name: Literal["auc", "cold_auc"] = "auc") -> float | None:
        """Points of a line's quality above end-to-end training's; None where the paper lacks one of the two."""
        line, reference = self.lines.get(label), self.lines.get(REFERENCE)
        own, theirs = (None if each is None else getattr(each, name) for each in (line, reference))
        return None if own is None or theirs is None else round(own - theirs, 1)


DATA_SETS = (
    DataSet("TOEIC", "shape:toeic", "response", 4, {
        "e2e": Reported(75.7, None, 64.2),
        "single_step": Reported(76.0, 5.7, 63.0),
        "multi_step N=10": Reported(75.8, 1.7, 65.1),
        "multi_step N=0.5E": Reported(75.7, 26, 64.7),
        "multi_step N=1E": Reported(75.3, 146, 64.6),
        "frozen": Reported(69.1, 343, 64.3),
        "ids_only": Reported(74.4, 2547, 49.4),
    }),
    DataSet("POJ", "shape:poj", "response", 4, {
        "e2e": Reported(69.0, None, 65.4),
        "single_step": Reported(69.0, 4.5, 65.5),
        "multi_step N=10": Reported(69.1, 3.8, 65.0),
        "multi_step N=0.5E": Reported(68.7, 9.1, 64.7),
        "multi_step N=1E": Reported(68.8, 12.5, 64.5),
        "frozen": Reported(68.3, 41, 65.8),
        "ids_only": Reported(63.8, 30.8, 50.9),
    }),
    DataSet("Duolingo Spanish", "shape:spanish", "response", 4, {
        "e2e": Reported(75.1, None, 68.7),
        "single_step": Reported(75.1, 3.5, 68.3),
        "multi_step N=10": Reported(74.4, 2.1, 67.2),
        "multi_step N=0.5E": Reported(74.4, 2.8, 67.0),
        "multi_step N=1E": Reported(74.7, 5.7, 67.0),
        "frozen": Reported(72.5, 24.7, 66.2),
        "ids_only": Reported(67.0, 37, 49.3),
    }),
    DataSet("Duolingo French", "shape:french", "response", 4, {
        "e2e": Reported(74.8, None, 74.7),
        "single_step": Reported(75.0, 3.3, 75.0),
        "multi_step N=10": Reported(74.2, 3.5, 73.2),
        "multi_step N=0.5E": Reported(74.1, 4.3, 73.2),
        "multi_step N=1E": Reported(74.4, 7.8, 73.3),
        "frozen": Reported(71.4, 9.8, 69.4),
        "ids_only": Reported(67.0, 13, 49.5),
    }),
    DataSet("MIND, titles", "shape:mind", "ranking", 5, {
        "e2e": Reported(68.9),
        "single_step": Reported(69.0, 2.5),
        "multi_step N=10": Reported(68.6, 1.9),
        "multi_step N=0.5E": Reported(68.7, 13.5),
        "multi_step N=1E": Reported(68.7, 17.3),
        "speedyfeed": Reported(68.3, 2.0),
        "frozen": Reported(66.8, 33.5),
    }),
    # End-to-end training was estimated there, never trained: it has no quality.
    DataSet("MIND, titles and bodies", "shape:mind_body", "ranking", 5, {
        "multi_step N=0.5E": Reported(69.6, 45),
        "multi_step N=1E": Reported(69.3, 56),
    }),
)  # fmt: skip


def of_task(task: str) -> tuple[DataSet, ...]:
    """The logs of a CF module's task."""
    return tuple(each for each in DATA_SETS if each.task == task)


def speed_up(workload: object, label: str) -> float | None:
    """The paper's speed-up of a line on the log that a `shape:` workload has the sizes of; None where it has none."""
    found = next((each.lines.get(label) for each in DATA_SETS if each.key == workload), None)
    return None if found is None else found.speed_up


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
    task = "ranking" if any(numbers.exists(row.get("test_mrr")) for row in rows) else "response"
    others = [row for row in rows if row["method"] != REFERENCE]
    logs = [log for log in of_task(task) if any(row["label"] in log.lines for row in others)]
    if not logs:
        return None
    known = [row for row in others if any(row["label"] in log.lines for log in logs)]
    columns = (
        text("Method", label),
        Column("Speed-up to best", lambda row: ratio_cell(row, "speed_up_best"), "this run"),
        Column("AUC against e2e's", _against_e2e, "this run, points"),
        *(Column(log.name, partial(_theirs, log), f"paper, Table {log.table}") for log in logs),
    )
    return Table(columns, (group(columns, "", known),), title=f"{case} · next to {TITLES[logs[0].table]}")


def _against_e2e(row: Row) -> Cell:
    spread = between(row.get("difference_auc_low"), row.get("difference_auc_high"), signed=True)
    return Cell(difference(row.get("difference_auc")), "", spread)


def _theirs(log: DataSet, row: Row) -> Cell:
    line = log.lines.get(row["label"])
    if line is None:
        return Cell(numbers.MISSING, "muted")
    auc, cold = log.difference(row["label"]), log.difference(row["label"], "cold_auc")
    parts = [] if auc is None else [f"AUC {_signed(auc)}"]
    parts += [] if cold is None else [f"cold {_signed(cold)}"]
    return Cell(numbers.times(line.speed_up), "", ", ".join(parts) or "e2e only estimated")


def _signed(points: float) -> str:
    return difference(points / 100)
