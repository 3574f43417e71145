"""Lightning with automatic and with manual optimisation: training_step encodes."""

import logging

import lightning
import torch
from _shop import Towers, encode_texts, every_slot, loader, text_model

from gram_core import encode


class Recommender(lightning.LightningModule):
    """Text model and towers."""

    def __init__(self, naive: bool, manual: bool):
        super().__init__()
        self.automatic_optimization = not manual
        self.text, self.towers, self.naive, self.losses = text_model(), Towers(), naive, []

    def encode_items(self, ids):
        return encode_texts(self.text, ids)

    def loss(self, batch):
        if self.naive:
            history = every_slot(self.encode_items, batch["history"])
            candidates = every_slot(self.encode_items, batch["candidates"])
        else:
            history, candidates = encode(self.encode_items, batch["history"], batch["candidates"], chunk=8, keep=8)
        loss = self.towers(history, candidates)
        self.losses.append(loss.item())
        return loss

    def training_step(self, batch, index):
        if self.automatic_optimization:
            return self.loss(batch)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip_gradients(optimizer, gradient_clip_val=1.0)
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def run(naive: bool) -> list[float]:
    """Losses of the steps, by every slot encoded or by each item once; automatic first, then manual."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    losses = []
    for manual in (False, True):
        model = Recommender(naive, manual)
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, loader())
        losses += model.losses
    return losses


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
