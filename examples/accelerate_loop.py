"""Accelerate, in one process or several: the wrapped text model goes into Deduplicated.

python examples/accelerate_loop.py
ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 examples/accelerate_loop.py
"""

import torch
from _shop import TOKENS, Towers, every_slot, loader, pad, text_model
from accelerate import Accelerator

from gram_core import Deduplicated, encode


def run(naive: bool, spread: list[float] | None = None) -> list[float]:
    """This process's losses, by every slot encoded or by each item once.

    spread: gets by how much the processes' weights differ at the end.
    """
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, towers = text_model(torch.float64), Towers().double()
    optimizer = torch.optim.AdamW([*model.parameters(), *towers.parameters()], lr=1e-3)
    model, towers, optimizer, batches = accelerator.prepare(model, towers, optimizer, loader(4))
    encoder = Deduplicated(model, TOKENS, collate=pad, pool="mean")
    losses = []
    for batch in batches:
        with accelerator.accumulate(model, towers):
            if naive:
                # one call of the wrapped model a backward pass, as DistributedDataParallel wants it
                rows = every_slot(encoder, torch.cat([batch["history"], batch["candidates"]], 1))
                history, candidates = rows[:, :6], rows[:, 6:]
            else:
                history, candidates = encode(encoder, batch["history"], batch["candidates"], chunk=8, keep=8)
            loss = towers(history, candidates)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    if spread is not None:
        weights = torch.cat([p.detach().flatten() for p in (*model.parameters(), *towers.parameters())])
        everyone = accelerator.gather(weights[None])
        spread.append(float((everyone - everyone[0]).abs().max()))
    return losses


if __name__ == "__main__":
    spread: list[float] = []
    plain, ours = run(naive=True), run(naive=False, spread=spread)
    accelerator = Accelerator()
    apart = accelerator.gather(torch.tensor([abs(one - two) for one, two in zip(plain, ours, strict=True)])).max()
    accelerator.print(f"{accelerator.num_processes} processes, losses apart {apart:.1e}, weights {spread[0]:.1e}")
