"""Inputs of one's own, small: an encoder in a folder, with a tokenizer, and logs of users who met its words' items."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tokenizers
import torch
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel

WORDS = ("river", "garden", "letter", "winter", "harbour", "old", "north", "bread")
ITEMS = 16


def write_encoder(folder: Path, seed: int = 0) -> Path:
    """A model folder: one narrow layer, and a tokenizer that knows `WORDS`."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=32, max_position_embeddings=32, **sizes), add_pooling_layer=False)
    model.save_pretrained(folder)
    tokenizer = tokenizers.Tokenizer(WordLevel({word: n for n, word in enumerate(("[UNK]", *WORDS))}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_items(path: Path) -> Path:
    """Texts of different lengths, no two alike."""
    texts = [" ".join(WORDS[: 1 + number % 4]) + f" {WORDS[number % len(WORDS)]}" for number in range(ITEMS)]
    path.write_text("item_id,text\n" + "".join(f"i{n},{text}\n" for n, text in enumerate(texts)), encoding="utf-8")
    return path


def write_log(path: Path, catalogue: int = ITEMS, users: int = 12, each: int = 8) -> Path:
    """Users who met `each` of the first items of the catalogue; a small one repeats its items more."""
    dice = random.Random(catalogue)
    rows = [
        f"u{user},i{item},{100 + place},{dice.randrange(2)}\n"
        for user in range(users)
        for place, item in enumerate(dice.sample(range(catalogue), each))
    ]
    path.write_text("user_id,item_id,timestamp,label\n" + "".join(rows), encoding="utf-8")
    return path


def configuration(
    folder: Path, *, blocks: int = 1, batch_size: str = "4", method: str = '["e2e", "single_step"]'
) -> str:
    """A sweep over `encoder`, items.csv and log.csv of the working directory, named by relative paths."""
    paired = f"blocks = {blocks}\nmax_blocks = {blocks}\nrounds = 4\ncanary = true" if blocks > 1 else ""
    text = f"""
[run]
samples = 3
window_s = 0.001
max_warmup_steps = 3
budget_s = 1.0
memory = "same"
{paired}
[sweep]
workload = "table"
encoder = "path:encoder"
cf_module = "dkt"
batch_size = {batch_size}
history_length = 8
text_length = 8
method = {method}
[workload.table]
items = "items.csv"
interactions = "log.csv"
[train]
seeds = 0
max_steps = 2
evaluate_every = 1
cold_items = 0
validation = 0.2
test = 0.2
[train.sweep]
workload = "table"
encoder = "path:encoder"
cf_module = "dkt"
method = "e2e"
batch_size = 4
history_length = 8
text_length = 8
"""
    (folder / "own.toml").write_text(text, encoding="utf-8")
    return text


def write(folder: Path, **of_configuration: object) -> Path:
    """Everything, with its configuration in own.toml; the folder is made."""
    folder.mkdir(parents=True)
    write_encoder(folder / "encoder"), write_items(folder / "items.csv"), write_log(folder / "log.csv")
    configuration(folder, **of_configuration)  # type: ignore[arg-type]
    return folder


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Another content under a file's name, and the old one again."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
