"""What people give `accelerated`: texts, models and settings of every kind, each right or one clear sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BatchEncoding

from gram_core import HuggingFaceEncoder, ItemTable, accelerated
from gram_core.exactness import relative_errors

ROOM, VOCABULARY = 40, 120
ROWS = [[2, 5, 3], [2, 7, 8, 9, 3], [2, 3]]
IDS = torch.arange(3)

pytestmark = pytest.mark.usefixtures("float64")


def bert() -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert", vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_hidden_layers=2,
        max_position_embeddings=ROOM, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return AutoModel.from_config(config, add_pooling_layer=False).double()


def padded() -> tuple[Tensor, Tensor]:
    ids, mask = ItemTable.from_lists(ROWS).texts(IDS).padded(5, 0)
    return ids, mask.long()


ITEMS = {
    "lists": lambda: ROWS,
    "tuples": lambda: tuple(map(tuple, ROWS)),
    "arrays": lambda: [np.array(row) for row in ROWS],
    "narrow arrays": lambda: [np.array(row, dtype=np.uint16) for row in ROWS],
    "an array of arrays": lambda: np.array([np.array(row) for row in ROWS], dtype=object),
    "tensors": lambda: [torch.tensor(row) for row in ROWS],
    "a generator": lambda: (row for row in ROWS),
    "a table": lambda: ItemTable.from_lists(ROWS),
    "a tokenizer's lists": lambda: BatchEncoding({"input_ids": ROWS}),
    "a tokenizer's tensors": lambda: BatchEncoding(dict(zip(("input_ids", "attention_mask"), padded(), strict=True))),
    "a tokenizer's arrays": lambda: BatchEncoding(
        dict(zip(("input_ids", "attention_mask"), (part.numpy() for part in padded()), strict=True))
    ),
}


@pytest.mark.parametrize("kind", ITEMS)
def test_token_ids_of_any_kind_are_the_same_texts(kind):
    model = bert()
    expected = HuggingFaceEncoder(model, pad_token_id=0, text_length=5)(ItemTable.from_lists(ROWS).texts(IDS))
    torch.testing.assert_close(accelerated(model, ITEMS[kind]())(IDS), expected)


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (["a film", "another"], TypeError, r"item 0 must be a list of token ids, .*not 'a film' \(str\)"),
        ("a film", TypeError, "items must be a list of token ids for each item, not str"),
        (None, TypeError, "items must be a list of token ids for each item, not NoneType"),
        ([[2, 3], [2.0, 5.5]], TypeError, r"item 1 must be .*whole numbers.*not '\[2.0, 5.5\]' \(list\)"),
        ([[[2, 3]], [[4, 5]]], TypeError, "item 0 must be a list of token ids"),
        ([2, 5, 3], TypeError, r"item 0 must be a list of token ids, .*not '2' \(int\)"),
        ({"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1]}, TypeError, "item 0 must be a list of token ids"),
        ({1: [2, 3]}, ValueError, "must have the tokenizer's input_ids"),
        ([], ValueError, "there are no items: give one list of token ids for each"),
        ({"input_ids": []}, ValueError, "there are no items"),
        ([[2, 3], []], ValueError, "item 1 has no tokens; give empty texts their special tokens"),
        ({"input_ids": [[2, 3]], "attention_mask": [[0, 0]]}, ValueError, "item 0 has no tokens"),
        ({"input_ids": [[2], [3]], "attention_mask": [[1]]}, ValueError, "attention_mask is of 1 texts, and input_ids"),
        ({"input_ids": [[2, 3]], "attention_mask": [[1]]}, ValueError, r"item 0 has 2 token ids, and its .*\[1\]"),
        ([[5] * 41], ValueError, "item 0 has 41 tokens, and the model's table of positions has room for 40: cut"),
        ([[VOCABULARY]], ValueError, "token ids must be from 0 to 119, the model's vocabulary, not 120"),
        ([[-1]], ValueError, "token ids must be from 0 to 119, the model's vocabulary, not -1"),
    ],
)
def test_items_that_are_none_are_one_sentence(items, error, message):
    model = bert()
    with pytest.raises(error, match=message):
        accelerated(model, items)
    with pytest.raises(error, match=message):
        accelerated(HuggingFaceEncoder(model, pad_token_id=0, text_length=64), items)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"pooling": "sum"}, ValueError, "pooling 'sum' is none of mean, cls, last, max, attention"),
        ({"pooling": ["mean"]}, ValueError, "is none of mean"),
        ({"pad_token_id": 500}, ValueError, "pad_token_id must be from 0 to 119, the model's vocabulary, not 500"),
        ({"pad_token_id": -1}, ValueError, "pad_token_id must be from 0 to 119"),
        ({"pad_token_id": "0"}, TypeError, "pad_token_id must be a whole number, not '0'"),
        ({"text_length": 2}, ValueError, "item 1 has 5 tokens, and text_length is 2: cut texts"),
        ({"text_length": 0}, ValueError, "text_length must be at least 1, not 0"),
        ({"text_length": 8.5}, TypeError, "text_length must be a whole number, not 8.5"),
        ({"text_length": 64}, ValueError, "text_length is 64, and the model's table of positions has room for 40"),
    ],
)
def test_settings_that_are_none_are_one_sentence(settings, error, message):
    with pytest.raises(error, match=message):
        accelerated(bert(), ROWS, **settings)


@pytest.mark.parametrize("settings", [{"pooling": "cls"}, {"pad_token_id": 1}, {"text_length": 9}])
def test_an_encoders_own_settings_are_not_passed_over(settings):
    with pytest.raises(ValueError, match="are the HuggingFaceEncoder's own"):
        accelerated(HuggingFaceEncoder(bert(), pad_token_id=0, text_length=5), ROWS, **settings)


@pytest.mark.parametrize("module", ["bert", nn.Linear, nn.Linear(2, 2)])
def test_modules_that_are_none_are_one_sentence(module):
    with pytest.raises(TypeError, match="accelerated takes a model of transformers or a HuggingFaceEncoder, not"):
        accelerated(module, ROWS)


@pytest.mark.parametrize(
    ("ids", "error"),
    [([0, 1], TypeError), (np.array([0]), TypeError), (0, TypeError), (torch.tensor([True]), ValueError),
     (torch.tensor(1), ValueError), (torch.tensor([0.5]), ValueError), (torch.tensor([3]), ValueError)],
)  # fmt: skip
def test_ids_that_are_none_are_one_sentence(ids, error):
    with pytest.raises(error, match="ids must be"):
        accelerated(bert(), ROWS)(ids)


def adapted(model: Any, **options: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(**{"r": 2, "target_modules": ["query"], "init_lora_weights": False, **options})
    return peft.get_peft_model(model, config).double()


WRAPPERS = {
    "peft": adapted,
    "peft, for features": lambda model: adapted(model, task_type="FEATURE_EXTRACTION"),
    "peft, words too": lambda model: adapted(model, target_modules=["query", "word_embeddings"]),
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: torch.compile(adapted(model), backend="eager"),
}


@pytest.mark.parametrize(
    ("wrapper", "pooling"), [(name, pooling) for name, pooling in zip(WRAPPERS, ["auto", "cls"] * 3, strict=False)]
)
def test_what_wraps_a_model_is_seen_through(wrapper, pooling):
    model = WRAPPERS[wrapper](bert())
    made = accelerated(model, ROWS, pooling=pooling)
    own = HuggingFaceEncoder(model, pad_token_id=0, text_length=5, pooling="mean" if pooling == "auto" else "cls")
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def left_by(rows: Tensor) -> dict[str, Tensor]:
        gradients = torch.autograd.grad(rows.cos().sum(), list(learning.values()))
        return {"": rows.detach(), **dict(zip(learning, gradients, strict=True))}

    expected = left_by(own(ItemTable.from_lists(ROWS).texts(IDS)))
    assert max(relative_errors(left_by(made(IDS)), expected).values()) <= 1e-10
    assert made.tier == "general"
