"""What the examples share and anyone has already: items with texts, a log of users, a text model, two towers.

All is tiny and random, so that every example runs in seconds; nothing is downloaded.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertModel

ITEMS, USERS, WIDTH = 40, 32, 16
_random = torch.Generator().manual_seed(0)
_lengths = torch.randint(3, 9, (ITEMS,), generator=_random).tolist()
TOKENS = [torch.randint(5, 60, (length,), generator=_random).tolist() for length in _lengths]


def pad(rows):
    """Token ids of n texts -> what a text model takes, [n, L] each."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


class Log(Dataset):
    """A user's history, padded with -1, and three candidates of which the first was clicked."""

    def __len__(self):
        return USERS

    def __getitem__(self, user):
        random = torch.Generator().manual_seed(user)
        history = torch.randint(0, ITEMS // 3, (6,), generator=random)
        history[int(torch.randint(2, 7, (), generator=random)) :] = -1
        return {"user": user, "history": history, "candidates": torch.randint(0, ITEMS // 2, (3,), generator=random)}


def loader(batch_size=8):
    """The log in batches, in its order."""
    return DataLoader(Log(), batch_size=batch_size)


def text_model(dtype=torch.float32):
    """A BERT of two layers, without dropout."""
    torch.manual_seed(1)
    sizes = dict(vocab_size=60, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    config = BertConfig(**sizes, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    return BertModel(config, add_pooling_layer=False).to(dtype).train()


def encode_texts(model, ids):
    """Item ids [n] -> mean-pooled encodings [n, d]."""
    batch = pad([TOKENS[i] for i in ids.tolist()])
    mask = batch["attention_mask"].to(model.device)[..., None]
    states = model(**{name: part.to(model.device) for name, part in batch.items()}).last_hidden_state
    return (states * mask).sum(1) / mask.sum(1)


class Towers(nn.Module):
    """The loss of encodings of history [B, H, d] and candidates [B, C, d]: a click among the candidates."""

    def __init__(self, width=WIDTH):
        super().__init__()
        torch.manual_seed(2)
        self.user, self.item = nn.Linear(width, 8), nn.Linear(width, 8)

    def forward(self, history, candidates):
        scores = torch.einsum("bd,bcd->bc", self.user(history.mean(1)), self.item(candidates))
        return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64, device=scores.device))


def every_slot(encoder, ids):
    """What a loop does today: encodings [*shape, d] of ids [*shape], every one encoded, zeros for -1."""
    rows = encoder(ids.flatten().clamp(min=0)).unflatten(0, ids.shape)
    return rows * (ids >= 0)[..., None]
