"""Counts of batches and intervals against counting them the slow way; sampling and extrapolation against the truth."""

from __future__ import annotations

import numpy as np
import pytest

from bench.planning.counts import count, of_batches
from tests.bench.planning._parts import random_workload


def slowly(rows, mask, lengths, size):
    """Means over whole groups of `size` users: of slots and of unique items, how many, tokens, squares, longest."""
    found = []
    for start in range(0, len(rows) - size + 1, size):
        users = range(start, start + size)
        held = [item for user in users for item, ok in zip(rows[user], mask[user], strict=True) if ok]
        line = []
        for items in (held, set(held)):
            of = [int(lengths[item]) for item in items]
            line += [len(of), sum(of), sum(each * each for each in of), max(of)]
        found.append(line)
    return np.mean(found, axis=0)


def told(group):
    return [
        getattr(part, name).mean
        for part in (group.slots, group.unique)
        for name in ("texts", "tokens", "squares", "longest")
    ]


@pytest.mark.parametrize("block", [1, 4, 16])
def test_a_whole_epoch_is_counted_exactly_whatever_the_batches_it_is_read_in(block) -> None:
    workload, rows, mask = random_workload(48, 6, 40, block)
    sizes = [1, 3, 8, 16, 24, 48]
    found = count(workload, sizes)
    assert found.whole
    for size in sizes:
        assert told(found.sizes[size]) == pytest.approx(slowly(rows, mask, workload.table.lengths, size)), size
        assert found.sizes[size].groups == 48 // size


def test_an_epochs_counts_have_no_error_and_a_samples_have_one() -> None:
    workload, rows, mask = random_workload(600, 6, 300, 4)
    whole, sampled = count(workload, [4]), count(workload, [4], most_users=200)
    assert whole.sizes[4].unique.texts.error == 0
    assert not sampled.whole
    truth, estimate = slowly(rows, mask, workload.table.lengths, 4), sampled.sizes[4].slots.tokens
    assert 0 < estimate.error < 0.2 * estimate.mean
    assert abs(estimate.mean - truth[1]) < 4 * estimate.error


def test_an_interval_beyond_what_is_read_is_extrapolated_near_the_truth() -> None:
    """Items that are met once must tell how many are still to come; taking what was met would be a third short."""
    workload, rows, mask = random_workload(4000, 8, 3000, 8, seed=3)
    found = count(workload, [8, 4000], most_users=800)
    met = count(workload, [800], most_users=800).sizes[800].unique.texts.mean
    truth = slowly(rows, mask, workload.table.lengths, 4000)
    extrapolated = found.sizes[4000]
    assert extrapolated.groups == 0
    assert met < 0.8 * truth[4]
    assert extrapolated.unique.texts.mean == pytest.approx(truth[4], rel=0.1)
    assert extrapolated.unique.tokens.mean == pytest.approx(truth[5], rel=0.1)
    assert extrapolated.slots.texts.mean == pytest.approx(truth[0], rel=0.05)
    assert extrapolated.unique.texts.error > 0


def test_an_interval_longer_than_an_epoch_meets_an_epochs_items() -> None:
    workload, rows, mask = random_workload(48, 6, 40, 8)
    found = count(workload, [8, 96]).sizes[96]
    assert found.unique.texts.mean == slowly(rows, mask, workload.table.lengths, 48)[4]
    assert found.slots.texts.mean == pytest.approx(2 * mask.sum())


def test_sizes_between_lie_between_and_never_shrink() -> None:
    workload, _, _ = random_workload(256, 6, 100, 8)
    found = count(workload, [4, 16, 64])
    uniques = [found.at(users).unique.texts.mean for users in (2, 4, 5, 10, 16, 40, 64, 100)]
    assert uniques == sorted(uniques)
    slots = [found.at(users).slots.texts.mean / users for users in (4, 10, 64)]
    assert slots == pytest.approx([slots[0]] * 3, rel=0.05)


def test_measured_batches_are_counted_like_a_log() -> None:
    workload, rows, mask = random_workload(32, 6, 40, 8)
    batch, interval = of_batches([workload.batches(step) for step in range(4)], workload.table, 2)
    assert told(batch) == pytest.approx(slowly(rows, mask, workload.table.lengths, 8))
    assert told(interval) == pytest.approx(slowly(rows, mask, workload.table.lengths, 16))
    with pytest.raises(ValueError, match="no whole number of intervals"):
        of_batches([workload.batches(0)] * 3, workload.table, 2)


def test_a_log_is_read_in_part_and_without_an_epoch_all_the_same() -> None:
    """A hundred million rows are not walked: what is read is bounded, whatever the epoch holds."""
    asked = []
    workload, _, _ = random_workload(64, 6, 40, 8)
    endless = type(workload)(
        workload.table, lambda step: (asked.append(step), workload.batches(step % 8))[1], 10**9, {}
    )
    found = count(endless, [8, 8 * 10**9], most_users=160)
    assert found.users == 160
    assert max(asked) < 20
    assert found.sizes[8 * 10**9].unique.texts.mean <= 40, "no more than the catalogue"
