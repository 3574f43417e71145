"""Multi-step GRAM in a plain loop: towers step on every batch, the encoder after every second one.

The encoder is then up to two steps old; with accumulation_steps=1 this is the naive loop's gradient.
"""

import torch
from _shop import Towers, encode_texts, every_slot, loader, text_model

from gram_core import MultiStepEncodings


def run(naive: bool, accumulation_steps: int = 1) -> list[float]:
    """Losses of the steps, by every slot encoded or with pseudo-targets."""
    model, towers = text_model(torch.float64), Towers().double()
    encoder_optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    towers_optimizer = torch.optim.SGD(towers.parameters(), lr=0.1)

    def encoder(ids):
        return encode_texts(model, ids)

    if not naive:
        targets = MultiStepEncodings(encoder, encoder_optimizer, accumulation_steps=accumulation_steps)
    losses = []
    for batch in loader():
        if naive:
            history = every_slot(encoder, batch["history"])
            candidates = every_slot(encoder, batch["candidates"])
        else:
            history, candidates = targets.encode(batch["history"], batch["candidates"])
        loss = towers(history, candidates)
        loss.backward()
        towers_optimizer.step()
        towers_optimizer.zero_grad()
        if naive:
            encoder_optimizer.step()
            encoder_optimizer.zero_grad()
        else:
            targets.step()
        losses.append(loss.item())
    if not naive:
        targets.finish()
    return losses


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("N = 1:     ", run(naive=False))
    print("N = 2:     ", run(naive=False, accumulation_steps=2))
