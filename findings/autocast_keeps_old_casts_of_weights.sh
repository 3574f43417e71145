#!/usr/bin/env bash
# Expected: a layer called under autocast uses its weight as it is now, also if an optimiser has stepped in between.
# Seen: autocast keeps the low-precision copy of a weight until the outermost block ends, whatever happens to the
#   weight. A second forward pass in one block computes with the weights from before the step; no error, no warning.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch

torch.manual_seed(0)
layer = torch.nn.Linear(4, 4, bias=False)
optimizer = torch.optim.SGD(layer.parameters(), lr=10.0)
x = torch.ones(1, 4)
with torch.autocast("cpu", torch.bfloat16):
    before = layer(x)
    before.float().sum().backward()
    optimizer.step()
    inside = layer(x)
with torch.autocast("cpu", torch.bfloat16):
    outside = layer(x)
print("before the step", before[0].tolist())
print("after it, same block", inside[0].tolist())
print("after it, next block", outside[0].tolist())
assert torch.equal(inside, before)
assert (outside - before).abs().max() > 30
PY
