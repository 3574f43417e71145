#!/usr/bin/env bash
# Expected: a decoder is made bidirectional by `is_causal = False`, on its configuration or on its attention modules,
#   and a text attends the same way whether or not another text of its batch is padded.
# Seen: the configuration's flag holds in every call. The modules' flag holds only while the batch has no padding: with
#   one padded text in the batch a causal mask is built, and it wins, for the full text too.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from transformers import LlamaConfig, LlamaModel


def sees_the_future(where, padded):
    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                   num_attention_heads=4, num_key_value_heads=4)).eval()
    if where == "configuration":
        model.config.is_causal = False
    else:
        for layer in model.layers:
            layer.self_attn.is_causal = False
    texts = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0 if padded else 1]])
    other = texts.clone()
    other[0, 3] = 50  # the last token of the text that is never padded
    with torch.no_grad():
        a, b = (model(ids, attention_mask=mask).last_hidden_state[0, 0] for ids in (texts, other))
    return not torch.allclose(a, b, atol=1e-6)


seen = {(where, padded): sees_the_future(where, padded) for where in ("configuration", "modules") for padded in (0, 1)}
for (where, padded), future in seen.items():
    print(f"is_causal=False on the {where}, {'padded' if padded else 'full'} batch: "
          f"{'bidirectional' if future else 'causal'}")
assert list(seen.values()) == [True, True, True, False], seen
PY
