#!/usr/bin/env bash
# Expected: `from_pretrained(folder, dtype=torch.bfloat16)` and `from_pretrained(folder).to(torch.bfloat16)` give the
#   same model; where a float32 table matters, both keep it.
# Seen: the parameters are equal, but `.to` also rounds the rotary inverse frequencies (a buffer that no checkpoint
#   holds) to bfloat16, while loading in bfloat16 leaves them in float32: other angles at far positions.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from transformers import LlamaConfig, LlamaModel

torch.manual_seed(0)
LlamaModel(LlamaConfig(vocab_size=97, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                       num_attention_heads=2, num_key_value_heads=2)).save_pretrained("model")
loaded = LlamaModel.from_pretrained("model", dtype=torch.bfloat16)
cast = LlamaModel.from_pretrained("model", dtype=torch.float32).to(torch.bfloat16)
assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), cast.parameters(), strict=True))
dtypes = loaded.rotary_emb.inv_freq.dtype, cast.rotary_emb.inv_freq.dtype
angle = (2000 * (loaded.rotary_emb.inv_freq - cast.rotary_emb.inv_freq.float())).abs().max().item()
print(f"parameters equal; inv_freq loaded {dtypes[0]}, cast {dtypes[1]}; angles at position 2000 differ by {angle:.2f}")
assert dtypes == (torch.float32, torch.bfloat16), dtypes
assert angle > 0.2, angle
PY
