"""A plain PyTorch loop: clipping and the optimizer's step stay as they are."""

import torch
from _shop import Towers, encode_texts, every_slot, loader, text_model

from gram_core import encode


def run(naive: bool) -> list[float]:
    """Losses of the steps, by every slot encoded or by each item once."""
    model, towers = text_model(torch.float64), Towers().double()
    parameters = [*model.parameters(), *towers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def encoder(ids):
        return encode_texts(model, ids)

    losses = []
    for batch in loader():
        if naive:
            history = every_slot(encoder, batch["history"])
            candidates = every_slot(encoder, batch["candidates"])
        else:
            history, candidates = encode(encoder, batch["history"], batch["candidates"], chunk=8, keep=8)
        loss = towers(history, candidates)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
