#!/usr/bin/env bash
# Expected: autocast to bfloat16 leaves two float16 tensors as they are where an operator takes them without a cast, or
#   casts both; joining tensors of one dtype needs neither.
# Seen: torch.cat and torch.stack of float16 tensors raise RuntimeError, and so they do with bfloat16 under autocast to
#   float16; addition, addcmul, lerp and where return float16, a product casts to bfloat16. A model that keeps a table or
#   a cache in the other narrow dtype works until something joins it.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch

half, square = torch.ones(2, dtype=torch.float16), torch.ones(2, 2, dtype=torch.float16)
calls = {
    "cat": lambda x, _: torch.cat((x, x)),
    "stack": lambda x, _: torch.stack((x, x)),
    "add": lambda x, _: x + x,
    "addcmul": lambda x, _: torch.addcmul(x, x, x),
    "lerp": lambda x, _: torch.lerp(x, x, 0.5),
    "where": lambda x, _: torch.where(x > 0, x, x),
    "matmul": lambda _, x: x @ x,
}


def under(autocast, dtype):
    seen = {}
    for name, call in calls.items():
        try:
            with torch.autocast("cpu", autocast):
                seen[name] = str(call(half.to(dtype), square.to(dtype)).dtype)
        except RuntimeError as error:
            seen[name] = str(error).splitlines()[0]
    return seen


raised = "Unexpected floating ScalarType in at::autocast::prioritize"
for autocast, dtype in ((torch.bfloat16, torch.float16), (torch.float16, torch.bfloat16)):
    seen = under(autocast, dtype)
    print(dtype, "under autocast to", autocast, seen)
    assert seen["cat"] == seen["stack"] == raised, seen
    assert all(seen[name] == str(dtype) for name in ("add", "addcmul", "lerp", "where")), seen
    assert seen["matmul"] == str(autocast), seen
    same = under(autocast, autocast)
    assert raised not in same.values(), same
PY
