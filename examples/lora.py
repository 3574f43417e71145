"""LoRA by peft: adapters train, the text model is frozen, and encode does not know of either."""

import torch
from _shop import TOKENS, Towers, every_slot, loader, pad, text_model
from peft import LoraConfig, get_peft_model

from gram_core import Deduplicated, encode


def run(naive: bool) -> list[float]:
    """Losses of the steps, by every slot encoded or by each item once."""
    torch.manual_seed(3)
    adapted = LoraConfig(r=2, target_modules=["query", "value"], lora_dropout=0.0, init_lora_weights="gaussian")
    model = get_peft_model(text_model(), adapted).double()
    towers = Towers().double()
    optimizer = torch.optim.AdamW([p for p in (*model.parameters(), *towers.parameters()) if p.requires_grad], lr=1e-2)
    encoder = Deduplicated(model, TOKENS, collate=pad, pool="mean")
    losses = []
    for batch in loader():
        if naive:
            history = every_slot(encoder, batch["history"])
            candidates = every_slot(encoder, batch["candidates"])
        else:
            history, candidates = encode(encoder, batch["history"], batch["candidates"], chunk=8, keep=8)
        loss = towers(history, candidates)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
