"""Counting gives what sorting gives, for dense numbers and for sparse ones, and for none."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given

from gram_core.small_numbers import distinct, stable_order

MOST = 2**31 - 1
NUMBERS = st.lists(st.integers(0, 9), max_size=40) | st.lists(st.integers(0, 10**12), max_size=8)
PLACES = st.lists(st.integers(-1, 9), max_size=40) | st.lists(st.integers(-MOST - 1, MOST), max_size=40)


@given(NUMBERS)
@example([63]).via("the sparsest that is counted")
@example([64]).via("and the first that is sorted")
def test_distinct_is_unique_with_its_inverse(numbers):
    values = np.array(numbers, dtype=np.int64)
    found, places = distinct(torch.from_numpy(values))
    assert found.tolist() == sorted(set(numbers))
    assert found[places].tolist() == numbers
    assert found.dtype == places.dtype == torch.int64


@given(PLACES)
@example([70_000, -1, 65_536, 70_000, 0, -1]).via("both digits, and a sign")
def test_stable_order_keeps_equals_in_place(numbers):
    order = stable_order(torch.tensor(numbers, dtype=torch.int64))
    assert order.tolist() == sorted(range(len(numbers)), key=lambda place: numbers[place])


def test_wide_numbers_are_refused():
    with pytest.raises(ValueError, match="32 bits"):
        stable_order(torch.tensor([2**40]))
