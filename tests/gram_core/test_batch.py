"""Texts, item tables, batches and selections against naive lists."""

from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from gram_core.batch import PADDING_SLOT, Batch, ItemTable, Texts, every_slot, offsets_of, unique_items
from tests.gram_core import _models as m
from tests.gram_core import _strategies as strategies

ROWS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=7), min_size=1, max_size=8)


def packed(rows):
    return Texts(torch.tensor([token for row in rows for token in row], dtype=torch.int64), lengths(rows))


def lengths(rows):
    return torch.tensor([len(row) for row in rows], dtype=torch.int64)


def unpacked(texts):
    parts = texts.tokens.split(texts.lengths.tolist()) if len(texts) else []
    return [part.tolist() for part in parts]


@given(rows=st.lists(st.integers(0, 5), max_size=6))
def test_offsets_are_running_sums(rows):
    assert offsets_of(torch.tensor(rows, dtype=torch.int64)).tolist() == [sum(rows[:i]) for i in range(len(rows) + 1)]


@given(rows=ROWS, data=st.data())
def test_texts_take_and_slice_as_lists_do(rows, data):
    texts = packed(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    assert unpacked(texts.take(torch.tensor(chosen, dtype=torch.int64))) == [rows[i] for i in chosen]
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert unpacked(texts.slice(start, stop)) == rows[start:stop]
    assert texts.slice(0, len(rows)).tokens.data_ptr() == texts.tokens.data_ptr()
    assert len(texts) == len(rows)


@given(rows=ROWS, extra=st.integers(0, 3))
def test_padding_fills_behind_each_text(rows, extra):
    width = max(map(len, rows)) + extra
    ids, mask = packed(rows).padded(width, pad_token_id=0)
    assert ids.tolist() == [row + [0] * (width - len(row)) for row in rows]
    assert mask.tolist() == [[place < len(row) for place in range(width)] for row in rows]


@given(rows=ROWS, data=st.data())
def test_a_table_hands_out_its_items_texts(rows, data):
    table = ItemTable.from_lists(rows)
    items = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    assert unpacked(table.texts(torch.tensor(items, dtype=torch.int64))) == [rows[i] for i in items]
    assert len(table) == len(rows)
    assert table.lengths.tolist() == [len(row) for row in rows]
    assert table.offsets.tolist() == offsets_of(lengths(rows)).tolist()
    assert table.tokens.tolist() == [token for row in rows for token in row]


@given(rows=ROWS, length=st.integers(1, 8), closing=st.none() | st.just(100))
def test_truncation_cuts_and_closes_long_texts_only(rows, length, closing):
    table = ItemTable.from_lists(rows)
    cut = table.truncated(length, closing)
    close = [] if closing is None else [closing]
    expected = [row if len(row) <= length else row[: length - len(close)] + close for row in rows]
    assert unpacked(cut.texts(torch.arange(len(rows)))) == expected
    assert unpacked(table.texts(torch.arange(len(rows)))) == rows, "the table itself stays"


def test_an_item_without_tokens_is_refused_by_number():
    with pytest.raises(ValueError, match="item 1 has no tokens"):
        ItemTable.from_lists([[1], [], [2]])


@pytest.mark.parametrize("offsets", [[0], [1, 2], [0, 1]])
def test_offsets_that_do_not_span_the_tokens_are_refused(offsets):
    with pytest.raises(ValueError, match="offsets must"):
        ItemTable(torch.tensor([4, 5]), torch.tensor(offsets))


def test_an_empty_catalogue_is_refused():
    with pytest.raises(ValueError, match="there are no items"):
        ItemTable.from_lists([])


@pytest.mark.parametrize("kind", [tuple, np.array, lambda row: np.array(row, dtype=np.uint16), torch.tensor])
def test_rows_may_be_any_sequence_of_integers(kind):
    assert ItemTable.from_lists([kind([7, 300]), kind([2])]).tokens.tolist() == [7, 300, 2]


@pytest.mark.parametrize(
    "row",
    [
        "a film",
        ["a", "film"],
        [2.0, 5.5],
        np.array([2.0]),
        [True, False],
        [[2, 3]],
        [[2], [3, 4]],
        5,
        [2, None],
        None,
        [2**70],
    ],
)
def test_what_is_no_list_of_token_ids_is_refused_by_number(row):
    """Numbers with a point would lose what is behind it, and rows within rows would be read as one text."""
    with pytest.raises(TypeError, match="item 1 must be a list of token ids"):
        ItemTable.from_lists([[1], row])


@dataclass(frozen=True, eq=False)
class PricedBatch(Batch):
    """As somebody extends it: with a field that has no default."""

    prices: torch.Tensor


@pytest.mark.parametrize("select", [every_slot, unique_items])
def test_a_batch_on_a_device_is_refused(select):
    with pytest.raises(ValueError, match="the batch lies on meta: hand it over on the host"):
        select(m.make_batch().to("meta"))


def test_a_batch_with_more_fields_moves_them_along():
    batch = m.make_batch()
    prices = torch.rand(batch.items.shape)
    priced = PricedBatch(batch.items, batch.mask, batch.targets, batch.history_length, prices)
    moved = priced.to("meta")
    assert {moved.items.device.type, moved.targets.device.type, moved.prices.device.type} == {"meta"}
    assert moved.history_length == batch.history_length


@given(batch=strategies.batches("ranking"))
def test_selections_name_the_items_that_slots_hold(batch):
    """Every slot's row leads back to its item; padding leads nowhere; unique items are sorted and once."""
    for selection in (every_slot(batch), unique_items(batch)):
        there = selection.slot_rows != PADDING_SLOT
        assert torch.equal(there, batch.mask)
        assert torch.equal(selection.items[selection.slot_rows[there]], batch.items[there])
    held = [int(item) for item, mask in zip(batch.items.flatten(), batch.mask.flatten(), strict=True) if mask]
    assert every_slot(batch).items.tolist() == held
    assert unique_items(batch).items.tolist() == sorted(set(held))
    assert batch.item_slots == len(held)
    assert batch.users == len(batch.items)


@given(batch=strategies.batches("ranking"), garbage=st.integers(-5, 10**9))
def test_what_a_padding_slot_holds_does_not_matter(batch, garbage):
    other = Batch(batch.items.masked_fill(~batch.mask, garbage), batch.mask, batch.targets, batch.history_length)
    for select in (every_slot, unique_items):
        found, expected = select(other), select(batch)
        assert torch.equal(found.items, expected.items)
        assert torch.equal(found.slot_rows, expected.slot_rows)


def test_a_batch_of_mismatched_shapes_is_refused():
    with pytest.raises(ValueError, match=r"must both be \[B, S\]"):
        Batch(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool), torch.zeros(2), 2)


def test_moving_a_batch_keeps_what_it_says():
    batch = m.make_batch().to("cpu")
    assert torch.equal(batch.items, m.make_batch().items)
    assert batch.history_length == m.HISTORY
    texts = m.make_table().texts(torch.tensor([1, 2])).to("cpu")
    assert len(texts) == 2
