"""What tests of workloads share: BERT's conventions for texts, a small case, and when two batches are the same."""

import torch

from bench.encoders._base import AssetTokenizer
from bench.workloads._base import WorkloadRequest

CLS, SEP, SPECIAL = 101, 102, frozenset({0, 100, 101, 102, 103})


def request(**changes):
    """BERT's conventions for texts, and a small case."""
    case = {
        "batch_size": 8,
        "history_length": 10,
        "text_length": 32,
        "seed": 0,
        "vocab_size": 30_522,
        "pad_token_id": 0,
        "opening_token_id": CLS,
        "closing_token_id": SEP,
        "special_token_ids": SPECIAL,
    }
    return WorkloadRequest(**{**case, **changes})


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("items", "mask", "targets"))


def tokenizer_of(asset):
    asset("minilm")
    return AssetTokenizer("minilm")
