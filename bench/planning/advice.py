"""One sentence: what to run, and why; that nothing is gained is said first."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.results.forecast import BatchCounts, ForecastLine

GAIN = 1.05
"""A speed-up below this is none: the measurement's own tolerance."""
NEAR = 0.95
"""A smaller batch that reaches this part of the best users per second is preferred."""
GIB = 1 << 30


@dataclass(frozen=True)
class Advice:
    """The sentence, the line that it names, and whether anything is gained."""

    sentence: str
    line: ForecastLine | None
    gains: bool


def advise(lines: Sequence[ForecastLine], counts: Sequence[BatchCounts], batch_size: int, limit_bytes: float) -> Advice:
    """Judges all lines. batch_size: the user's; counts: of single batches, at least of the recommended size."""
    fitting = [line for line in lines if line.fits]
    limit = f"{limit_bytes / GIB:.3g} GiB"
    if not fitting:
        return Advice(
            f"Nothing fits into {limit}: take shorter texts, a smaller encoder, or bound single_step's memory with "
            "method.single_step.chunk_tokens and kept_tokens.",
            None,
            False,
        )
    exact = [line for line in fitting if line.exactness == "exact"] or fitting
    best = _smallest_near_best(exact)
    at_same = [line for line in exact if line.batch_size == best.batch_size and line.engine == best.engine]
    plain = next((line for line in at_same if line.method == "e2e"), None)
    stale = max(
        (line for line in fitting if line.exactness == "stale" and line.engine == best.engine),
        key=lambda line: line.users_per_s.value,
        default=None,
    )
    ratio = next((each.item_repetition_ratio for each in counts if each.batch_size == best.batch_size), 1.0)
    repeats = f"a batch of {best.batch_size} users meets each of its items {ratio:.3g} times"
    also = f" {stale.label} is {_times(stale)}, stale." if stale is not None and stale.speed_up.value >= GAIN else ""
    asked = max((line for line in exact if line.batch_size == batch_size), key=_gain, default=None)
    if best.speed_up.value < GAIN:
        first = f"Nothing exact is gained: {repeats}, so that end-to-end training encodes few texts twice"
        if plain is not None:
            best = plain
        return Advice(f"{first}; take {_place(best)}.{also}", best, bool(also))
    reason = f"since {repeats}"
    if plain is None:
        reason += f", and e2e does not fit into {limit} there"
    own = ""
    if asked is not None and asked.batch_size != best.batch_size:
        own = f" At your {batch_size} users {asked.label} is {_times(asked)}."
    if asked is None:
        own = f" Your {batch_size} users do not fit into {limit}."
    unsure = " The interval holds 1: calibrate where nothing else runs." if best.speed_up.low < 1 else ""
    return Advice(f"{_place(best)}: {_times(best)} e2e, {reason}.{unsure}{own}{also}", best, True)


def _smallest_near_best(lines: Sequence[ForecastLine]) -> ForecastLine:
    """Fewest users first, then the plainest method, among those that are nearly as fast as the fastest."""
    fastest = max(line.users_per_s.value for line in lines)
    near = [line for line in lines if line.users_per_s.value >= NEAR * fastest]
    order = {"e2e": 0, "single_step": 1, "e2e_unique": 2}
    return min(near, key=lambda line: (line.batch_size, order.get(line.method, 3), -line.users_per_s.value))


def _gain(line: ForecastLine) -> float:
    return line.users_per_s.value


def _times(line: ForecastLine) -> str:
    return f"{line.speed_up.value:.2g}x ({line.speed_up.low:.2g} to {line.speed_up.high:.2g})"


def _place(line: ForecastLine) -> str:
    return (
        f"{line.label} ({line.engine}), {line.batch_size} users, {line.peak_bytes.value / GIB:.2g} GiB, "
        f"{line.users_per_s.value:.3g} users/s"
    )
