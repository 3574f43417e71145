#!/usr/bin/env bash
# Expected: attention over nothing (a user without history) gives one answer in PyTorch: NaN, the softmax of an empty
#   set, from scaled_dot_product_attention and nn.MultiheadAttention alike, in train and in eval mode.
# Seen: scaled_dot_product_attention gives 0. nn.MultiheadAttention gives NaN, except in train mode with
#   need_weights=False, where it gives 0 (its bias): a model without NaN in training has NaN in evaluation.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(2, 3, 8)
nothing = torch.tensor([[False] * 3, [True] * 3])  # the second sequence is all padding
direct = nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=~nothing[:, None, :].expand(2, 3, 3))[1]
print("scaled_dot_product_attention:", direct[0].tolist())
attention = nn.MultiheadAttention(8, 2, batch_first=True)
seen = {}
for mode in ("train", "eval"):
    getattr(attention, mode)()
    for need_weights in (True, False):
        with torch.no_grad():
            output = attention(x, x, x, key_padding_mask=nothing, need_weights=need_weights)[0]
        assert output[0].isfinite().all()
        seen[mode, need_weights] = bool(output[1].isnan().all())
        print(f"MultiheadAttention, {mode}, need_weights={need_weights}: {output[1, 0, :3].tolist()}")
assert not direct.any(), direct
assert seen == {("train", True): True, ("train", False): False, ("eval", True): True, ("eval", False): True}, seen
PY
