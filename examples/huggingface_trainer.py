"""Hugging Face Trainer: the model's forward pass encodes, the Trainer does all else."""

import tempfile

from _shop import Log, Towers, encode_texts, every_slot, text_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from gram_core import encode


class Recommender(nn.Module):
    """Text model and towers; a batch's loss."""

    def __init__(self, naive: bool):
        super().__init__()
        self.text, self.towers, self.naive = text_model(), Towers(), naive

    def encode_items(self, ids):
        return encode_texts(self.text, ids)

    def forward(self, history, candidates):
        if self.naive:
            history = every_slot(self.encode_items, history)
            candidates = every_slot(self.encode_items, candidates)
        else:
            history, candidates = encode(self.encode_items, history, candidates, chunk=8, keep=8)
        return {"loss": self.towers(history, candidates)}


class Losses(TrainerCallback):
    """What the Trainer logs."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.seen.append(float(logs["loss"]))


def run(naive: bool) -> list[float]:
    """Losses of the steps, by every slot encoded or by each item once."""
    losses = Losses()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            num_train_epochs=1,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        Trainer(Recommender(naive), arguments, train_dataset=Log(), callbacks=[losses]).train()
    return losses.seen


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
