"""What the paper reports of its own logs, as facts: its Tables 4 (knowledge tracing) and 5 (news recommendation).

Speed-ups are wall-clock to convergence against its end-to-end training, on A100s (one for Duolingo, eight elsewhere).
That code encodes each unique item once in knowledge tracing and every slot in news recommendation, so that the two
tables' speed-ups are not one quantity. Qualities are AUC in points, of a hundred.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

REFERENCE = "e2e"


@dataclass(frozen=True)
class Reported:
    """One method on one log. auc, cold_auc: points; None where the paper has none. speed_up: None for e2e."""

    auc: float | None
    speed_up: float | None = None
    cold_auc: float | None = None


@dataclass(frozen=True)
class DataSet:
    """A log of the paper. key: the `shape:` workload of its sizes. table: the paper's, by number."""

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
