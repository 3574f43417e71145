"""How long the rest of a run will take, going by what its workers took so far."""

import statistics
from collections.abc import Iterable

from bench.configuration.sweep import WorkItem


class Pace:
    """Durations of finished workers; an item is expected to take what the ones most like it took."""

    def __init__(self) -> None:
        self._took: list[tuple[WorkItem, float]] = []

    def took(self, item: WorkItem, seconds: float) -> None:
        """Notes a finished worker."""
        self._took.append((item, seconds))

    def remaining_s(self, items: Iterable[WorkItem]) -> float | None:
        """Seconds for `items`, None where nothing has been timed yet."""
        return sum(self._expected_s(item) for item in items) if self._took else None

    def _expected_s(self, item: WorkItem) -> float:
        """The median of the same line on the same encoder and workload, else of the same method, else of all."""
        case = item.case
        alike = [
            [s for o, s in self._took if o.line == item.line and o.case.encoder == case.encoder
             and o.case.layers == case.layers and o.case.workload == case.workload],
            [s for o, s in self._took if o.line.method == item.line.method],
            [s for _, s in self._took],
        ]  # fmt: skip
        return statistics.median(next(group for group in alike if group))
