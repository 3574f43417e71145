#!/usr/bin/env bash
# Expected: where a checkpoint's configuration names no dtype, transformers loads tensors as they are saved, or in the
#   widest or most common of their dtypes; float32 weights are not thrown away.
# Seen: the first tensor by name decides for all. One bfloat16 embedding before float32 matrices, and all are
#   rounded to bfloat16; one float32 embedding before bfloat16 matrices, and all are widened.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaModel

LlamaModel(LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                       num_attention_heads=4, num_key_value_heads=4)).save_pretrained("model")
config = json.loads(Path("model/config.json").read_text())
config.pop("dtype")
Path("model/config.json").write_text(json.dumps(config))
tensors = load_file("model/model.safetensors")
first, *others = sorted(tensors)


def loaded(first_dtype, other_dtype):
    mixed = {name: tensor.to(first_dtype if name == first else other_dtype) for name, tensor in tensors.items()}
    save_file(mixed, "model/model.safetensors", metadata={"format": "pt"})
    return {parameter.dtype for parameter in LlamaModel.from_pretrained("model").parameters()}


narrow = loaded(torch.bfloat16, torch.float32)
wide = loaded(torch.float32, torch.bfloat16)
print(f"{first} bfloat16, {len(others)} others float32: loaded as {narrow}")
print(f"{first} float32, {len(others)} others bfloat16: loaded as {wide}")
assert narrow == {torch.bfloat16}, narrow
assert wide == {torch.float32}, wide
PY
