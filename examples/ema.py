"""Averaged weights: copies of the model share the catalogue, and evaluate with the same call."""

import torch
from _shop import TOKENS, Towers, every_slot, loader, pad, text_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gram_core import Deduplicated, encode


class Recommender(nn.Module):
    """Text model over its catalogue, and towers."""

    def __init__(self, naive: bool):
        super().__init__()
        self.naive, self.towers = naive, Towers().double()
        self.items = Deduplicated(text_model(torch.float64), TOKENS, collate=pad, pool="mean")

    def forward(self, batch):
        if self.naive:
            history = every_slot(self.items, batch["history"])
            candidates = every_slot(self.items, batch["candidates"])
        else:
            history, candidates = encode(self.items, batch["history"], batch["candidates"], chunk=8, keep=8)
        return self.towers(history, candidates)


def run(naive: bool) -> list[float]:
    """Losses of the steps, then those of the averaged weights, by every slot encoded or by each item once."""
    model = Recommender(naive)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for batch in loader():
        loss = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)
        losses.append(loss.item())
    averaged.eval()
    with torch.no_grad():
        losses += [averaged(batch).item() for batch in loader()]
    return losses


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
