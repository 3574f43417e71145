#!/usr/bin/env bash
# Expected: giving RoBERTa the word embeddings of the tokens (`inputs_embeds`) with the same attention mask gives the
#   same output as giving it the tokens.
# Seen: only for padding on the right. Positions are counted from token ids that are not padding; without ids they are
#   counted over the whole row, whatever the mask says, so padding on the left shifts every position.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from transformers import RobertaConfig, RobertaModel

torch.manual_seed(0)
model = RobertaModel(RobertaConfig(vocab_size=30, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                   num_attention_heads=4, max_position_embeddings=40)).eval()
seen = {}
for side, ids in (("right", torch.tensor([[5, 6, 7, 1, 1]])), ("left", torch.tensor([[1, 1, 5, 6, 7]]))):
    mask = (ids != 1).long()
    with torch.no_grad():
        tokens = model(ids, attention_mask=mask).last_hidden_state
        vectors = model(inputs_embeds=model.embeddings.word_embeddings(ids), attention_mask=mask).last_hidden_state
    seen[side] = (tokens - vectors)[mask.bool()].abs().max().item()
    print(f"padding on the {side}: outputs of ids and of their embeddings differ by {seen[side]:.2g}")
assert seen["right"] < 1e-5 and seen["left"] > 0.5, seen
PY
