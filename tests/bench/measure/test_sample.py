"""What repeats in a log is counted on enough of its batches, and the typical ones of them are those that are timed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.measure.sample import ERROR, LEAST, MOST, sample
from gram_core.batch import Batch, ItemTable

ITEMS = 500


def table(lengths=None):
    lengths = torch.ones(ITEMS, dtype=torch.int64) if lengths is None else lengths
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return ItemTable(torch.zeros(int(offsets[-1]), dtype=torch.int64), offsets)


def batch(items):
    items = torch.as_tensor(items).reshape(1, -1)
    return Batch(items, items >= 0, torch.zeros(1, dtype=torch.int64), items.shape[1])


def skewed(step):
    """Batches of a log in which one of a few has many more slots, and repeats much more, than the others."""
    rng = np.random.default_rng(step)
    slots = 400 if rng.random() < 0.2 else 50
    return batch(rng.integers(10 + int(rng.integers(40)), size=slots))


def test_a_log_whose_batches_differ_is_counted_until_its_ratio_is_known():
    whole = [skewed(step) for step in range(20_000, 24_000)]
    unique = [len(each.items.unique()) for each in whole]
    truth = sum(each.item_slots for each in whole) / sum(unique)
    found = [sample(skewed, 1_000 * start, table(), None) for start in range(20)]
    assert {each.batches for each in found} == {MOST}, "these differ so much that 1 % is not known before"
    errors = np.array([(each.item_repetition_ratio / truth - 1) / each.relative_error for each in found])
    assert np.abs(errors).max() < 4, "the stated error is that of the ratio"
    assert np.abs(errors).mean() > 0.2
    of_three = [sum(w.item_slots for w in whole[n : n + 3]) / sum(unique[n : n + 3]) for n in range(0, 300, 3)]
    assert np.std(of_three) > 3 * np.std([each.item_repetition_ratio for each in found])


def test_a_log_whose_batches_are_alike_is_known_soon():
    found = sample(lambda step: batch(torch.arange(20) // 2), 7, table(), None)
    assert (found.batches, found.item_repetition_ratio, found.relative_error) == (LEAST, 2.0, 0.0)
    assert sorted(found.numbers) == list(range(7, 7 + LEAST))


def test_counting_stops_where_the_error_is_small_enough():
    found = sample(lambda step: batch(np.random.default_rng(step).integers(40, size=100)), 0, table(), None)
    assert LEAST <= found.batches < MOST
    assert found.relative_error <= ERROR


@given(st.integers(1, 12))
def test_a_whole_epoch_leaves_nothing_to_err_about(steps):
    found = sample(skewed, 0, table(), steps)
    counted = [skewed(step) for step in range(found.batches)]
    assert found.item_repetition_ratio == pytest.approx(
        sum(each.item_slots for each in counted) / sum(len(each.items.unique()) for each in counted)
    )
    if found.batches == steps:
        assert found.relative_error == 0


def test_the_most_typical_batches_come_first():
    """In tokens of all slots and of the different items, which is what methods encode."""
    lengths = torch.arange(ITEMS) % 7 + 1
    found = sample(skewed, 0, table(lengths), 60)
    loads = {}
    for step in range(found.batches):
        items = skewed(step).items[0]
        loads[step] = np.array([int(lengths[items].sum()), int(lengths[items.unique()].sum())])
    mean = np.mean(list(loads.values()), axis=0)
    distances = [float((((loads[number] / mean) - 1) ** 2).sum()) for number in found.numbers]
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[0]


def test_batches_without_an_item_have_no_ratio():
    found = sample(lambda step: batch([-1, -1]), 0, table(), None)
    assert (found.item_repetition_ratio, found.relative_error) == (None, None)
