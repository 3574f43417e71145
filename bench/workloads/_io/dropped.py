"""What of a file was read and left out, by reason, with the first example of each."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from bench.results.analysis.left_out import reasons


class Dropped:
    """Counts of one kind of thing, "rows" say: `read` of them, and of these the dropped ones."""

    def __init__(self, what: str):
        self.what = what
        self.read = 0
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, reason: str, number: int, example: str | Callable[[], str]) -> None:
        """So many more for this reason. example: where the first of them is."""
        if number and reason not in self.examples:
            self.examples[reason] = example if isinstance(example, str) else example()
        self.counts[reason] += number

    @property
    def left(self) -> int:
        """How many were kept."""
        return self.read - self.counts.total()

    def facts(self) -> dict[str, Any]:
        """For the record: WHAT_read, WHAT_dropped and WHAT_dropped_examples."""
        return {
            f"{self.what}_read": self.read,
            f"{self.what}_dropped": dict(+self.counts),
            f"{self.what}_dropped_examples": self.examples,
        }

    def why(self) -> str:
        """What an error about nothing being left ends with: empty where nothing was dropped."""
        return f": {listed}" if (listed := reasons(dict(+self.counts), self.examples)) else ""
