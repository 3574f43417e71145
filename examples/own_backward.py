"""A loss that back-propagates by itself, user by user: within `encoded` its gradients stop at the encodings."""

import torch
from _shop import Towers, encode_texts, every_slot, loader, text_model

from gram_core import encoded


def backward_user_by_user(towers, history, candidates):
    """A loss that a library gives and that can't be changed; returns its value."""
    parts = [towers(h[None], c[None]) / len(history) for h, c in zip(history, candidates, strict=True)]
    for part in parts:
        part.backward(retain_graph=True)
    return sum(part.item() for part in parts)


def run(naive: bool) -> list[float]:
    """Losses of the steps, by every slot encoded or by each item once."""
    model, towers = text_model(torch.float64), Towers().double()
    optimizer = torch.optim.AdamW([*model.parameters(), *towers.parameters()], lr=1e-3)

    def encoder(ids):
        return encode_texts(model, ids)

    losses = []
    for batch in loader():
        if naive:
            history = every_slot(encoder, batch["history"])
            candidates = every_slot(encoder, batch["candidates"])
            losses.append(backward_user_by_user(towers, history, candidates))
        else:
            with encoded(encoder, batch["history"], batch["candidates"]) as (history, candidates):
                losses.append(backward_user_by_user(towers, history, candidates))
        optimizer.step()
        optimizer.zero_grad()
    return losses


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
