#!/usr/bin/env bash
# Expected: gradient checkpointing trades time for memory; the forward pass returns the same values with it and without.
# Seen: it turns the decoder's cache off while gradients are recorded (it says so), and a row of packed texts (position
#   ids that start again) is kept apart only without a cache. So one model in train mode, without dropout, answers the
#   same row differently: texts mixed without checkpointing, apart with it, and mixed with it under no_grad.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from transformers import LlamaConfig, LlamaModel

torch.manual_seed(0)
model = LlamaModel(LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                               num_attention_heads=4, num_key_value_heads=4, attention_dropout=0.0)).train()
row = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])


def output():
    return model(row, position_ids=positions).last_hidden_state.detach()


plain = output()
model.gradient_checkpointing_enable()
checkpointed = output()
with torch.no_grad():
    without_gradients = output()
training = (checkpointed - plain).abs().max().item()
evaluation = (without_gradients - plain).abs().max().item()
print(f"checkpointing changes the output by {training:.2g} with gradients and by {evaluation:.2g} under no_grad")
assert training > 0.1, training
assert evaluation < 1e-5, evaluation
PY
