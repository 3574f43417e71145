"""A plain loop on the engine's passes: texts packed without padding, attention in kernels of ours."""

import torch
from _shop import TOKENS, Towers, encode_texts, every_slot, loader, text_model

from gram_core import accelerated, encode


def run(naive: bool) -> list[float]:
    """Losses of the steps, by every slot encoded or by each item once, without padding."""
    model, towers = text_model(torch.float64), Towers().double()
    optimizer = torch.optim.AdamW([*model.parameters(), *towers.parameters()], lr=1e-3)
    if naive:

        def encoder(ids):
            return encode_texts(model, ids)
    else:
        encoder = accelerated(model, TOKENS, pooling="mean")

    losses = []
    for batch in loader():
        if naive:
            history = every_slot(encoder, batch["history"])
            candidates = every_slot(encoder, batch["candidates"])
        else:
            history, candidates = encode(encoder, batch["history"], batch["candidates"])
        loss = towers(history, candidates)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
