#!/usr/bin/env bash
# Expected: `from_pretrained(folder, dtype=torch.float16)` gives a model whose parameters are all float16, as it does
#   with bfloat16 and as `.half()` does; one dtype describes the model.
# Seen: T5 loaded in float16 keeps the second matrix of every feed-forward block in float32, with `model.dtype` float16.
#   In bfloat16 and after `.half()` all is one dtype: the way to float16 decides the model's bytes and gradients' dtype.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from transformers import T5Config, T5EncoderModel

T5EncoderModel(T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)).save_pretrained("model")
seen = {
    "dtype=float16": T5EncoderModel.from_pretrained("model", dtype=torch.float16),
    "dtype=bfloat16": T5EncoderModel.from_pretrained("model", dtype=torch.bfloat16),
    ".half()": T5EncoderModel.from_pretrained("model", dtype=torch.float32).half(),
}
wide = {name: [key for key, value in model.named_parameters() if value.dtype == torch.float32]
        for name, model in seen.items()}
for name, model in seen.items():
    print(f"{name:15} model.dtype {model.dtype}, in float32: {wide[name] or 'none'}")
assert seen["dtype=float16"].dtype == torch.float16
assert wide == {"dtype=float16": [f"encoder.block.{i}.layer.1.DenseReluDense.wo.weight" for i in (0, 1)],
                "dtype=bfloat16": [], ".half()": []}, wide
PY
