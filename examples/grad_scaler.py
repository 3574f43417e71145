"""Mixed precision with GradScaler and gradient accumulation: nothing changes in the order of their calls."""

import torch
from _shop import Towers, encode_texts, every_slot, loader, text_model

from gram_core import encode


def run(naive: bool) -> list[float]:
    """Losses of the batches, by every slot encoded or by each item once."""
    model, towers = text_model(), Towers()
    parameters = [*model.parameters(), *towers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def encoder(ids):
        return encode_texts(model, ids)

    losses = []
    for step, batch in enumerate(loader(4)):
        with torch.autocast("cpu", torch.bfloat16):
            if naive:
                history = every_slot(encoder, batch["history"])
                candidates = every_slot(encoder, batch["candidates"])
            else:
                history, candidates = encode(encoder, batch["history"], batch["candidates"], chunk=8, keep=8)
            loss = towers(history, candidates) / 2
        scaler.scale(loss).backward()
        if step % 2:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


TOLERANCE = 1e-2
"""bfloat16's rounding: a text is padded with other texts in a batch of distinct items."""

if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
