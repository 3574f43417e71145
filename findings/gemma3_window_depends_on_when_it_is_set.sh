#!/usr/bin/env bash
# Expected: `sliding_window` of a Gemma 3 configuration is the number that was given, and setting
#   `use_bidirectional_attention` in the constructor or on the next line describes one and the same model.
# Seen: a constructor that is given the flag replaces the window 8 by 5, so that a token sees 4 neighbours on each side;
#   setting the flag afterwards leaves 8, a token sees 7 on each side, and `to_dict` and the saved file then say 14.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from transformers import Gemma3TextConfig, Gemma3TextModel

sizes = dict(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=4, head_dim=8, layer_types=["sliding_attention"], sliding_window=8)
given = Gemma3TextConfig(use_bidirectional_attention=True, **sizes)
later = Gemma3TextConfig(**sizes)
later.use_bidirectional_attention = True


def reach(config):
    """How many positions to the left and to the right of token 20 change with it."""
    torch.manual_seed(0)
    model = Gemma3TextModel(config).eval()
    text = torch.arange(40)[None]
    other = text.clone()
    other[0, 20] = 90
    with torch.no_grad():
        change = (model(text).last_hidden_state - model(other).last_hidden_state).abs().amax(-1)[0]
    touched = (change > 1e-7).nonzero().flatten()
    return 20 - touched.min().item(), touched.max().item() - 20


seen = []
for name, config in (("in the constructor", given), ("afterwards", later)):
    seen.append((config.sliding_window, config.to_dict()["sliding_window"], reach(config)))
    print(f"bidirectional {name}: sliding_window {seen[-1][0]}, in to_dict {seen[-1][1]}, reaches {seen[-1][2]}")
assert seen == [(5, 8, (4, 4)), (8, 14, (7, 7))], seen
PY
