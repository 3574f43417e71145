#!/usr/bin/env bash
# Expected: position_ids that all lie in the table of positions are accepted, however many tokens the row has (texts
#   packed into one row count anew from 0).
# Seen: CLIP's text model raises ValueError as soon as the row is longer than the table, though it is given positions that
#   all lie in it; BERT, with a table as long, takes the row.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel

sizes = dict(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
             max_position_embeddings=8)
row = torch.arange(3, 19)[None]
positions = torch.arange(16)[None] % 8


def outcome(model):
    try:
        return tuple(model.eval()(input_ids=row, position_ids=positions).last_hidden_state.shape)
    except ValueError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"


clip = outcome(CLIPTextModel(CLIPTextConfig(**sizes)))
bert = outcome(BertModel(BertConfig(**sizes)))
print(f"clip, 16 tokens at positions below 8: {clip}\nbert: {bert}")
assert isinstance(clip, str) and clip.startswith("ValueError: Sequence length"), clip
assert bert == (1, 16, 32), bert
PY
