"""Two encoders, one for texts and one for pictures that are bytes in a memory-mapped file."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from _shop import ITEMS, TOKENS, WIDTH, Towers, every_slot, loader, pad, text_model
from transformers import ViTConfig, ViTModel

from gram_core import Deduplicated, encode


def image_model():
    """A vision transformer of one layer on pictures of 16 x 16."""
    torch.manual_seed(3)
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return ViTModel(config, add_pooling_layer=False).double()


def to_floats(batch):
    """uint8 pixels, moved as such, to floats on the device."""
    return {"pixel_values": batch["pixel_values"].double() / 127.5 - 1}


def run(naive: bool) -> list[float]:
    """Losses of the steps, by every slot encoded or by each item once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.npy"
        np.save(file, np.random.default_rng(0).integers(0, 256, (ITEMS, 3, 16, 16), dtype=np.uint8))
        return trained(naive, np.load(file, mmap_mode="r"))


def trained(naive: bool, pictures: np.ndarray) -> list[float]:
    """The loop."""
    texts = Deduplicated(text_model(torch.float64), TOKENS, collate=pad, pool="mean")
    images = Deduplicated(image_model(), {"pixel_values": pictures}, prepare=to_floats, pool="cls")
    towers = Towers(2 * WIDTH).double()
    optimizer = torch.optim.AdamW([*texts.parameters(), *images.parameters(), *towers.parameters()], lr=1e-3)
    losses = []
    for batch in loader():
        ids = batch["history"], batch["candidates"]
        if naive:
            of_texts = [every_slot(texts, part) for part in ids]
            of_images = [every_slot(images, part) for part in ids]
        else:
            of_texts = encode(texts, *ids, chunk=8, keep=8)
            of_images = encode(images, *ids, chunk=4, keep=0)
        history, candidates = (torch.cat(both, -1) for both in zip(of_texts, of_images, strict=True))
        loss = towers(history, candidates)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
