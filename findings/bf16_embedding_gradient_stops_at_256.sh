#!/usr/bin/env bash
# Expected: the gradient of a bfloat16 embedding's row that is used 1000 times is 1000 (1000 is a bfloat16 number): sums
#   of low precision are accumulated in float32, as torch.sum and torch.cumsum do, and as a product does.
# Seen: on a processor F.embedding, w[ids] and embedding_bag add use after use in bfloat16 and stop at 256, where
#   256 + 1 rounds to 256. index_select, the same lookup, gives 1000. A log's frequent items lose their gradient.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch
from torch.nn import functional as F

ids = torch.zeros(1000, dtype=torch.long)
lookups = {
    "F.embedding": lambda w: F.embedding(ids, w),
    "w[ids]": lambda w: w[ids],
    "F.embedding_bag": lambda w: F.embedding_bag(ids[None], w, mode="sum"),
    "index_select": lambda w: w.index_select(0, ids),
    "one-hot product": lambda w: F.one_hot(ids, 3).to(w.dtype) @ w,
}
seen = {}
for name, lookup in lookups.items():
    weight = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    output = lookup(weight)
    output.backward(torch.ones_like(output))
    seen[name] = weight.grad[0, 0].item()
print(seen)
assert torch.ones(1000, dtype=torch.bfloat16).sum() == 1000
assert seen == {"F.embedding": 256, "w[ids]": 256, "F.embedding_bag": 256, "index_select": 1000,
                "one-hot product": 1000}, seen
PY
