"""The encoding buffer is a dict of moved rows whose memory follows the items touched."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from gram_core.encoding_buffer import EncodingBuffer

WIDTH = 3
CATALOGUE = 10**5
ITEM_LISTS = st.lists(st.integers(0, CATALOGUE), min_size=1, max_size=8, unique=True)


def fresh():
    return EncodingBuffer(WIDTH, torch.device("cpu"), torch.float64)


@given(rounds=st.lists(st.one_of(ITEM_LISTS, st.just("clear")), max_size=12), seed=st.integers(0, 99))
def test_it_behaves_as_a_dict(rounds, seed):
    """Adding what is missing, moving what is there, forgetting, in any order."""
    generator = torch.Generator().manual_seed(seed)
    buffer, encoded, moved = fresh(), {}, {}
    most = 0
    for action in rounds:
        if action == "clear":
            buffer.clear()
            encoded, moved = {}, {}
        else:
            items = torch.tensor(action)
            new = buffer.missing(items)
            assert new.tolist() == [item for item in action if item not in moved]
            rows = torch.randn(len(new), WIDTH, generator=generator, dtype=torch.float64)
            buffer.add(new, rows)
            for item, row in zip(new.tolist(), rows, strict=True):
                encoded[item] = moved[item] = row
            gradient = torch.randn(len(items), WIDTH, generator=generator, dtype=torch.float64)
            buffer.move(items, gradient, 0.5)
            for item, row in zip(action, gradient, strict=True):
                moved[item] = moved[item] - 0.5 * row
        most = max(most, len(moved))
        assert len(buffer) == len(moved)
        assert buffer.items.tolist() == list(moved), "in order of first appearance"
        assert buffer.capacity <= 2 * most
        if moved:
            every = torch.tensor(list(moved)).flip(0)
            assert torch.equal(buffer.read(every)[0], torch.stack(list(encoded.values())).flip(0))
            assert torch.allclose(buffer.moved(every), torch.stack(list(moved.values())).flip(0), atol=1e-12)


def test_memory_follows_the_items_touched_and_stays_after_clear():
    buffer = fresh()
    assert buffer.capacity == 0
    for start in range(0, 1000, 10):
        items = torch.arange(start, start + 10) * 10**3
        buffer.add(items, torch.zeros(10, WIDTH, dtype=torch.float64))
    held = buffer.capacity
    assert 1000 <= held <= 2000
    buffer.clear()
    assert len(buffer) == 0
    assert buffer.items.tolist() == []
    buffer.add(torch.tensor([5]), torch.ones(1, WIDTH, dtype=torch.float64))
    assert buffer.capacity == held
    encoded, displacement = buffer.read(torch.tensor([5]))
    assert encoded.tolist() == [[1.0] * WIDTH]
    assert displacement.tolist() == [[0.0] * WIDTH], "a row taken anew has not moved"


def test_rows_that_are_at_hand_are_forgotten_with_their_items():
    buffer, items = fresh(), torch.tensor([7, 3])
    buffer.add(items, torch.zeros(2, WIDTH, dtype=torch.float64))
    buffer.move(items, torch.ones(2, WIDTH, dtype=torch.float64), 1.0)
    buffer.clear()
    for item in (3, 7):
        buffer.add(torch.tensor([item]), torch.full((1, WIDTH), float(item), dtype=torch.float64))
    assert buffer.moved(items)[:, 0].tolist() == [7.0, 3.0]


@pytest.mark.parametrize("read", ["read", "moved"])
def test_what_is_read_is_a_copy(read):
    """The CF step back-propagates into what it reads; the buffer must move by `move` alone."""
    buffer = fresh()
    items = torch.tensor([3, 9])
    buffer.add(items, torch.ones(2, WIDTH, dtype=torch.float64))
    rows = getattr(buffer, read)(items)
    for part in rows if isinstance(rows, tuple) else (rows,):
        part.add_(5)
    assert buffer.moved(items).eq(1).all()


def test_tiny_moves_keep_their_digits_in_float32():
    """A thousand moves of 1e-9 beside an encoding of 1 would vanish from a float32 sum."""
    buffer = EncodingBuffer(1, torch.device("cpu"), torch.float32)
    item = torch.tensor([4])
    buffer.add(item, torch.ones(1, 1))
    for _ in range(1000):
        buffer.move(item, torch.full((1, 1), 1e-9), 1.0)
    assert float(buffer.read(item)[1]) == pytest.approx(-1e-6, rel=1e-4)
