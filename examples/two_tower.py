"""Two towers with side features and in-batch negatives: every user's click is a negative of all others."""

import torch
import torch.nn.functional as F
from _shop import ITEMS, USERS, WIDTH, encode_texts, every_slot, loader, text_model
from torch import nn

from gram_core import encode


class TwoTower(nn.Module):
    """Encodings beside id embeddings, prices and user embeddings."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.ids, self.users = nn.Embedding(ITEMS, 4), nn.Embedding(USERS, 4)
        self.item, self.user = nn.Linear(WIDTH + 4 + 1, 8), nn.Linear(8 + 4, 8)
        self.register_buffer("price", torch.rand(ITEMS))

    def items(self, encodings, ids):
        known = ids.clamp(min=0)
        return self.item(torch.cat([encodings, self.ids(known), self.price[known][..., None]], -1))

    def forward(self, history, clicked, batch):
        mask = (batch["history"] >= 0)[..., None]
        read = (self.items(history, batch["history"]) * mask).sum(1) / mask.sum(1)
        users = self.user(torch.cat([read, self.users(batch["user"])], -1))
        scores = users @ self.items(clicked, batch["candidates"][:, 0]).T
        return F.cross_entropy(scores, torch.arange(len(scores)))


def run(naive: bool) -> list[float]:
    """Losses of the steps, by every slot encoded or by each item once."""
    model, towers = text_model(torch.float64), TwoTower().double()
    optimizer = torch.optim.AdamW([*model.parameters(), *towers.parameters()], lr=1e-3)

    def encoder(ids):
        return encode_texts(model, ids)

    losses = []
    for batch in loader():
        if naive:
            history = every_slot(encoder, batch["history"])
            clicked = every_slot(encoder, batch["candidates"][:, 0])
        else:
            history, clicked = encode(encoder, batch["history"], batch["candidates"][:, 0], chunk=8, keep=8)
        loss = towers(history, clicked, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
