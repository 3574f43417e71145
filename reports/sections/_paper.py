"""What the paper reports of the logs whose sizes the `shape:` workloads take (Tables 4 and 5).

Speed-up is wall-clock to convergence against end-to-end training, on A100s (one for Duolingo, eight elsewhere).
"""

from __future__ import annotations

SPEED_UPS: dict[str, dict[str, float]] = {
    "shape:toeic": {"single_step": 5.7, "multi_step N=10": 1.7, "multi_step N=0.5E": 26, "multi_step N=1E": 146},
    "shape:poj": {"single_step": 4.5, "multi_step N=10": 3.8, "multi_step N=0.5E": 9.1, "multi_step N=1E": 12.5},
    "shape:spanish": {"single_step": 3.5, "multi_step N=10": 2.1, "multi_step N=0.5E": 2.8, "multi_step N=1E": 5.7},
    "shape:french": {"single_step": 3.3, "multi_step N=10": 3.5, "multi_step N=0.5E": 4.3, "multi_step N=1E": 7.8},
    "shape:mind": {"single_step": 2.5, "multi_step N=10": 1.9, "multi_step N=0.5E": 13.5, "multi_step N=1E": 17.3},
    "shape:mind_body": {"multi_step N=0.5E": 45, "multi_step N=1E": 56},
}
"""Workload -> line -> speed-up. The paper estimated end-to-end training on MIND with bodies, and trained the rest."""
FROZEN: dict[str, float] = {
    "shape:toeic": 343,
    "shape:poj": 41,
    "shape:spanish": 24.7,
    "shape:french": 9.8,
    "shape:mind": 33.5,
}
IDS_ONLY: dict[str, float] = {"shape:toeic": 2547, "shape:poj": 30.8, "shape:spanish": 37, "shape:french": 13}


def speed_up(workload: object, label: str) -> float | None:
    """The paper's speed-up of a line; None where it has none."""
    others = {"frozen": FROZEN, "ids_only": IDS_ONLY}.get(label)
    return (others or SPEED_UPS.get(str(workload), {})).get(str(workload) if others else label)
