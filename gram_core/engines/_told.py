"""What whoever replays captured graphs tells of them."""

from __future__ import annotations

from gram_core.engines._captured import CapturedFunction, GraphPool


class Captured:
    """A method, or a part of one, whose work is captured: `functions`, whose graphs share a pool."""

    _pool: GraphPool
    functions: tuple[CapturedFunction, ...]

    def take_idle_s(self) -> float | None:
        """Seconds in which the device waited for the host since the last call; None where it keeps no time."""
        return self._pool.idle.take_idle_s()

    def made_ready(self) -> int:
        """Calls so far of sizes that were new: run as they are, then captured. What steps of known sizes do not pay."""
        return sum(function.made_ready for function in self.functions)

    def capture_counts(self) -> dict[str, int]:
        """Calls replayed from graphs and calls run uncaptured, so far, of all its functions."""
        counts = [function.counts for function in self.functions]
        return {
            "replayed": sum(count.replayed for count in counts),
            "uncaptured": sum(count.uncaptured for count in counts),
        }
