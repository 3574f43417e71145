"""The sentence: where nothing is gained it says that first, and it never names what does not fit."""

from __future__ import annotations

from bench.planning.advice import advise
from bench.results.forecast import BatchCounts, Count, ForecastLine, Interval

GIB = 1 << 30


def around(value: float) -> Interval:
    return Interval(value=value, low=0.95 * value, high=1.05 * value)


def line(method: str, batch_size: int, users_per_s: float, speed_up: float, *, fits: bool = True, steps=None):
    return ForecastLine(
        method=method, engine="eager", tier="padded", asked_steps=steps, steps=1,
        exactness="stale" if method == "multi_step" else "exact", batch_size=batch_size,
        step_s=around(batch_size / users_per_s), epoch_s=None, users_per_s=around(users_per_s),
        speed_up=around(speed_up), peak_bytes=around(GIB), fits=fits, limit="device",
    )  # fmt: skip


def counts(batch_size: int, ratio: float) -> BatchCounts:
    def of(mean: float) -> Count:
        return Count(mean=mean, error=0, spread=0)

    return BatchCounts(
        batch_size=batch_size, steps=1, item_slots=of(100 * ratio), unique_items=of(100), real_tokens=of(1),
        unique_tokens=of(1), squared_lengths=of(1), padded_tokens=1, groups=1,
    )  # fmt: skip


def test_the_fastest_exact_method_is_recommended_with_its_reason_and_the_stale_one_beside_it() -> None:
    lines = [line("e2e", 64, 100, 1), line("single_step", 64, 310, 3.1), line("multi_step", 64, 800, 8, steps="0.5E")]
    found = advise(lines, [counts(64, 4.2)], 64, 8 * GIB)
    assert found.gains
    assert found.line == lines[1]
    assert found.sentence.startswith("single_step (eager), 64 users, 1 GiB, 310 users/s: 3.1x (2.9 to 3.3) e2e, since")
    assert "meets each of its items 4.2 times" in found.sentence
    assert "multi_step N=0.5E is 8x (7.6 to 8.4), stale." in found.sentence


def test_that_nothing_is_gained_is_said_first() -> None:
    found = advise([line("e2e", 8, 100, 1), line("single_step", 8, 102, 1.02)], [counts(8, 1.0)], 8, GIB)
    assert not found.gains
    assert found.sentence.startswith("Nothing exact is gained: a batch of 8 users meets each of its items 1 times")
    assert found.line.method == "e2e"


def test_what_does_not_fit_is_not_recommended() -> None:
    lines = [line("e2e", 64, 100, 1, fits=False), line("single_step", 64, 300, 3, fits=False)]
    small = [line("e2e", 16, 80, 1), line("single_step", 16, 160, 2)]
    found = advise([*lines, *small], [counts(16, 2.0), counts(64, 4.0)], 64, GIB)
    assert found.line == small[1]
    assert "Your 64 users do not fit into 1 GiB." in found.sentence
    nothing = advise(lines, [counts(64, 4.0)], 64, GIB)
    assert nothing.line is None
    assert nothing.sentence.startswith("Nothing fits into 1 GiB")


def test_a_smaller_batch_that_is_nearly_as_fast_is_preferred() -> None:
    lines = [line("e2e", size, 50, 1) for size in (32, 256)]
    lines += [line("single_step", 32, 300, 6), line("single_step", 256, 310, 6.2)]
    found = advise(lines, [counts(32, 2.0), counts(256, 6.0)], 256, GIB)
    assert found.line.batch_size == 32
    assert "At your 256 users single_step is 6.2x" in found.sentence


def test_an_interval_that_holds_one_is_said_to() -> None:
    wide = line("single_step", 8, 200, 2).model_copy(update={"speed_up": Interval(value=2, low=0.7, high=6)})
    found = advise([line("e2e", 8, 100, 1), wide], [counts(8, 2.0)], 8, GIB)
    assert "The interval holds 1" in found.sentence
