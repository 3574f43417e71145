"""sentence-transformers' trainer with a loss that encodes each distinct text of a batch once."""

import tempfile

from _shop import WIDTH, text_model
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback

from gram_core import DeduplicatedLoss

WORDS = [f"w{i}" for i in range(50)]
PAIRS = Dataset.from_dict(
    {
        "anchor": [f"w{i // 4} w{i // 4 + 1}" for i in range(32)],  # each anchor four times
        "positive": [f"w{i + 9} w{i + 10} w{i % 5}" for i in range(32)],
    }
)


def sentence_model(folder):
    """A tiny model with a tokenizer of its own; yours comes from SentenceTransformer(name)."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    text_model().save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(folder), Pooling(WIDTH)], device="cpu")


class Losses(TrainerCallback):
    """What the trainer logs."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.seen.append(float(logs["loss"]))


def run(naive: bool) -> list[float]:
    """Losses of the steps, by every slot encoded or by each item once."""
    losses = Losses()
    with tempfile.TemporaryDirectory() as folder:
        model = sentence_model(folder)
        loss = MultipleNegativesRankingLoss(model)
        if not naive:
            loss = DeduplicatedLoss(loss, chunk=8, keep=8)
        arguments = SentenceTransformerTrainingArguments(
            folder,
            per_device_train_batch_size=8,
            num_train_epochs=1,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        SentenceTransformerTrainer(model, arguments, train_dataset=PAIRS, loss=loss, callbacks=[losses]).train()
    return losses.seen


if __name__ == "__main__":
    print("every slot:", run(naive=True))
    print("each once: ", run(naive=False))
