#!/usr/bin/env bash
# Expected: F.normalize and F.cosine_similarity return 0 for a zero vector (padding of a history, an unknown item):
#   their eps keeps the division defined.
# Seen: in float16 the eps 1e-12 of F.normalize and 1e-8 of F.cosine_similarity both round to 0, and 0/0 is NaN. float32
#   and bfloat16 give 0. F.layer_norm with eps=1e-12 gives 0 in float16 too, so the rule is not general.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch
from torch.nn import functional as F

seen = {}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    zero, one = torch.zeros(1, 4, dtype=dtype), torch.ones(1, 4, dtype=dtype)
    seen[dtype] = [F.normalize(zero)[0, 0].item(), F.cosine_similarity(zero, one)[0].item(),
                   F.layer_norm(zero, (4,), eps=1e-12)[0, 0].item()]
    print(dtype, "normalize, cosine_similarity, layer_norm of zero:", seen[dtype])
assert seen[torch.float32] == seen[torch.bfloat16] == [0, 0, 0], seen
assert [value != value for value in seen[torch.float16]] == [True, True, False], seen
PY
