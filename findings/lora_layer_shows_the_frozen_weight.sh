#!/usr/bin/env bash
# Expected: a layer that peft has wrapped for LoRA either has no `.weight` of its own (AttributeError) or shows the
#   weight it applies, base plus update.
# Seen: `.weight` is the frozen base matrix. Code that reads it (a fused product, a norm, a distance between weights, an
#   export) runs without an error and leaves the whole adapter out.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 peft==0.21.2 numpy==2.4.6
python - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
model = get_peft_model(nn.Sequential(nn.Linear(16, 16, bias=False)),
                       LoraConfig(r=4, target_modules=["0"], init_lora_weights=False))
layer = model.base_model.model[0]
x = torch.randn(2, 16)
error = (nn.functional.linear(x, layer.weight) - layer(x)).abs().max().item()
full = layer.weight + layer.get_delta_weight("default")
print(f"{type(layer).__module__}: .weight is the base layer's: {layer.weight is layer.base_layer.weight}")
print(f"product with .weight is off by {error:.2g}, with the update added by "
      f"{(nn.functional.linear(x, full) - layer(x)).abs().max().item():.2g}")
assert layer.weight is layer.base_layer.weight
assert not layer.weight.requires_grad
assert error > 0.05, error
PY
