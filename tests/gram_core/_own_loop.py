"""A loop of one's own for the tests of `encode`: a small BERT, a two-tower model, and the naive line, float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from gram_core.exactness import gradients, relative_errors

ITEMS, WIDTH = 20, 8
_generator = torch.Generator().manual_seed(0)
TOKENS = [
    torch.randint(5, 40, (int(n),), generator=_generator).tolist()
    for n in torch.randint(2, 8, (ITEMS,), generator=_generator)
]


def padded(rows: list[list[int]]) -> dict[str, Tensor]:
    """Token ids [n, L] and their mask."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@dataclass
class Counting:
    """An encoder of item ids that notes which ids it is called with."""

    model: nn.Module
    calls: list[list[int]] = field(default_factory=list)

    def __call__(self, ids: Tensor) -> Tensor:
        self.calls.append(ids.tolist())
        if not len(ids):
            return torch.zeros(0, WIDTH, dtype=torch.float64)
        return every_id(self.model, ids)


def every_id(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean-pooled encodings [n, d] of ids [n], repeats included."""
    batch = padded([TOKENS[i] for i in ids.tolist()])
    mask = batch["attention_mask"][..., None]
    return (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


def naive(model: nn.Module, ids: Tensor) -> Tensor:
    """Every slot encoded [*shape, d], zeros for -1."""
    if not ids.numel():
        return torch.zeros(*ids.shape, WIDTH, dtype=torch.float64)
    encodings = every_id(model, ids.reshape(-1).clamp(min=0)).view(*ids.shape, WIDTH)
    return encodings * (ids >= 0)[..., None]


def text_model(dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> BertModel:
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=40,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
    )
    return BertModel(config, add_pooling_layer=False).to(dtype).train()


class Tower(nn.Module):
    """A loss on encodings of history [B, H, d] and candidates [B, C, d], with in-batch negatives."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.user, self.item = nn.Linear(WIDTH, 6), nn.Linear(WIDTH, 6)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        users, items = self.user(history.mean(1)), self.item(candidates)
        own = torch.einsum("bd,bcd->bc", users, items)
        clicked = torch.zeros(len(users), dtype=torch.int64)
        return F.cross_entropy(own, clicked) + F.cross_entropy(users @ items[:, 0].T, torch.arange(len(users)))


def tower() -> Tower:
    return Tower().double()


def batch(seed: int = 0, users: int = 5) -> tuple[Tensor, Tensor]:
    """History [B, 4] with padding and candidates [B, 3], items repeated."""
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(-1, 9, (users, 4), generator=generator)
    history[:, 0] = torch.randint(0, 9, (users,), generator=generator)
    return history, torch.randint(0, ITEMS, (users, 3), generator=generator)


def naive_gradients(ids: tuple[Tensor, ...] | None = None) -> dict[str, Tensor]:
    """Gradients of the loop that encodes every slot."""
    model, loss = text_model(), tower()
    loss(*(naive(model, part) for part in ids or batch())).backward()
    return gradients({"encoder": model, "tower": loss})


def error(model: nn.Module, loss: nn.Module, expected: dict[str, Tensor]) -> float:
    """The largest relative error of the modules' gradients."""
    return max(relative_errors(gradients({"encoder": model, "tower": loss}), expected).values())
