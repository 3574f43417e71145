#!/usr/bin/env bash
# Expected: `SentenceTransformer.encode` inside a training loop (to refresh item embeddings, to mine negatives) leaves
#   the model in the mode it was in.
# Seen: it calls eval() and does not go back. Training continues without dropout, with a loss that looks better.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0 numpy==2.4.6
python - <<'PY'
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2, "shoe": 3}, unk_token="[UNK]"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]",
                        model_input_names=["input_ids", "attention_mask"]).save_pretrained("model")
BertModel(BertConfig(vocab_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                     num_attention_heads=4)).save_pretrained("model")
model = SentenceTransformer(modules=[Transformer("model"), Pooling(32, "mean")], device="cpu").train()


def varies():
    """Whether two passes of one text differ, as dropout makes them."""
    features = model.preprocess(["red shoe"])
    a, b = (model(dict(features))["sentence_embedding"] for _ in range(2))
    return not torch.equal(a, b)


before = model.training, varies()
model.encode(["red shoe"])
after = model.training, varies()
print(f"before encode: training {before[0]}, dropout {before[1]}; after: training {after[0]}, dropout {after[1]}")
assert (before, after) == ((True, True), (False, False)), (before, after)
PY
