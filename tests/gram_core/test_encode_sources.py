"""`Deduplicated`: whatever can be indexed is a source of items, read for the distinct items of a call alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTModel

from gram_core import Deduplicated, encode
from gram_core.exactness import gradients, relative_errors
from tests.gram_core import _own_loop as loop

ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)
IDS = torch.tensor([[5, 5, -1], [0, 7, 5]])


class Rows:
    """Rows one by one, as a data set gives them; it notes which were asked for."""

    def __init__(self, row):
        self.row, self.asked = row, []

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.row(index)


def double(rows):
    return rows.float() * 2


SOURCES = {
    "tensor": lambda path: torch.from_numpy(ROWS),
    "array": lambda path: ROWS,
    "memory-mapped": lambda path: np.load(path, mmap_mode="r"),
    "bytes": lambda path: ROWS.astype(np.uint8),
    "list of lists": lambda path: ROWS.astype(int).tolist(),
    "list of tensors": lambda path: list(torch.from_numpy(ROWS)),
    "data set": lambda path: Rows(lambda index: ROWS[index]),
    "mapping from ids": lambda path: {index: ROWS[index] for index in range(8)},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source(kind, tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    encoder = Deduplicated(double, SOURCES[kind](tmp_path / "rows.npy"))
    expected = torch.from_numpy(ROWS)[IDS.clamp(min=0)] * 2 * (IDS >= 0)[..., None]
    torch.testing.assert_close(encode(encoder, IDS), expected)
    torch.testing.assert_close(encode(encoder, IDS, chunk=1), expected)
    assert encode(encoder, torch.full((2, 2), -1)).tolist() == [[[0, 0, 0]] * 2] * 2


def test_each_row_is_read_once():
    rows = Rows(lambda index: ROWS[index])
    encode(Deduplicated(double, rows), IDS, IDS, chunk=2)
    assert rows.asked == [0, 5, 7]


def test_fields_are_keyword_arguments_and_tuples_positional_ones():
    """Several modalities in one module."""

    def both(price, words):
        return price.float() + words["ids"].float()

    fields = {"price": ROWS, "words": {"ids": torch.from_numpy(ROWS)}}
    torch.testing.assert_close(encode(Deduplicated(both, fields), torch.tensor([2])), torch.from_numpy(2 * ROWS[2:3]))
    of_dicts = [{"price": row, "words": {"ids": row}} for row in ROWS]
    torch.testing.assert_close(encode(Deduplicated(both, of_dicts), torch.tensor([2])), torch.from_numpy(2 * ROWS[2:3]))
    pairs = [(row, {"ids": row}) for row in ROWS]
    torch.testing.assert_close(encode(Deduplicated(both, pairs), torch.tensor([2])), torch.from_numpy(2 * ROWS[2:3]))


def test_token_ids_with_a_collate_function():
    """Texts of differing length, padded per chunk: gradients are the naive loop's."""
    model, tower = loop.text_model(), loop.tower()
    encoder = Deduplicated(model, loop.TOKENS, collate=loop.padded, pool="mean")
    tower(*encode(encoder, *loop.batch(), chunk=4, keep=6)).backward()
    assert loop.error(model, tower, loop.naive_gradients()) < 1e-10


def test_collate_gets_rows_of_fields():
    """A tokenizer's output, a mapping of lists, padded by what takes a list of mappings."""
    model, tower = loop.text_model(), loop.tower()
    tokenized = {"input_ids": loop.TOKENS, "token_type_ids": [[0] * len(row) for row in loop.TOKENS]}
    encoder = Deduplicated(
        model, tokenized, collate=lambda rows: loop.padded([row["input_ids"] for row in rows]), pool="mean"
    )
    tower(*encode(encoder, *loop.batch())).backward()
    assert loop.error(model, tower, loop.naive_gradients()) < 1e-10


@pytest.mark.parametrize("pool", ["cls", lambda output, batch: output.last_hidden_state[:, 0]])
def test_pooling_by_name_or_function(pool):
    encoder = Deduplicated(loop.text_model(), loop.TOKENS, collate=loop.padded, pool=pool)
    state = loop.text_model()(**loop.padded([loop.TOKENS[3]])).last_hidden_state[:, 0]
    torch.testing.assert_close(encode(encoder, torch.tensor([3, 3]))[1:], state)


def vision_model():
    torch.manual_seed(3)
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    return ViTModel(config, add_pooling_layer=False).double()


def pixels(batch):
    return {"pixel_values": batch["pixel_values"].double() / 127.5 - 1}


def test_pictures_as_memory_mapped_bytes(tmp_path):
    """uint8 on the host and over the wire, floats on the device: gradients are those of every slot's picture."""
    stored = np.random.default_rng(0).integers(0, 256, (loop.ITEMS, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", stored)
    source = {"pixel_values": np.load(tmp_path / "pictures.npy", mmap_mode="r")}
    model, tower = vision_model(), loop.tower()
    encoder = Deduplicated(model, source, prepare=pixels, pool="cls")
    tower(*encode(encoder, *loop.batch(), chunk=3, keep=3)).backward()
    naive, other = vision_model(), loop.tower()
    slots = [
        naive(**pixels({"pixel_values": torch.from_numpy(stored)[ids.flatten().clamp(min=0)]}))
        .last_hidden_state[:, 0]
        .view(*ids.shape, -1)
        * (ids >= 0)[..., None]
        for ids in loop.batch()
    ]
    other(*slots).backward()
    expected = gradients({"encoder": naive, "tower": other})
    assert max(relative_errors(gradients({"encoder": model, "tower": tower}), expected).values()) < 1e-10


def test_no_item_keeps_the_module_in_the_graph():
    """A batch whose pictures are all missing: zero gradients, not none, so that processes that sum them agree."""
    module = nn.Linear(3, 2)
    encode(Deduplicated(module, ROWS), torch.full((2, 3), -1)).sum().backward()
    assert module.weight.grad.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_copies_share_the_items_and_not_the_module():
    """Averaged weights copy the model, not the catalogue."""
    encoder = Deduplicated(nn.Linear(3, 2), ROWS)
    copied = copy.deepcopy(encoder)
    assert copied._source.items is ROWS
    assert copied.module is not encoder.module
    assert [name for name, _ in copied.named_parameters()] == ["module.weight", "module.bias"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Deduplicated(double, []), ValueError, "one item at least"),
        (lambda: Deduplicated(double, ROWS, pool="attention"), ValueError, "part of the module"),
        (lambda: Deduplicated(double, ROWS, pool="median"), ValueError, "'median' is none of mean"),
        (lambda: encode(Deduplicated(double, {}), IDS), ValueError, "one item at least"),
        (lambda: encode(Deduplicated(double, ROWS), torch.tensor([8])), IndexError, "8"),
        (lambda: encode(Deduplicated(lambda rows: {"a": rows}, ROWS), IDS), TypeError, "returned dict.*pool="),
        (lambda: encode(Deduplicated(double, loop.TOKENS), IDS), ValueError, "same shape"),
    ],
)
def test_what_cannot_work_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
