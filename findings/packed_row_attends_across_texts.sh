#!/usr/bin/env bash
# Expected: in transformers, position ids that start again at 0 inside a row mark packed texts, and each text then
#   attends to itself alone; a mask of ones says nothing more than no mask.
# Seen: the texts are kept apart only if there is neither an attention mask nor a cache. A decoder makes a cache by
#   default, also in training, so the plain call mixes the texts, and so does a mask of ones. No warning.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from transformers import LlamaConfig, LlamaModel

torch.manual_seed(0)
model = LlamaModel(LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                               num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64)).eval()
first, second = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11]])
row = torch.cat([first, second], dim=1)
positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])


def error(**options):
    """Largest difference between the second text in the row and the same text alone."""
    with torch.no_grad():
        packed = model(row, position_ids=positions, **options).last_hidden_state[:, 4:]
        return (packed - model(second).last_hidden_state).abs().max().item()


seen = {
    "default": error(),
    "use_cache=False": error(use_cache=False),
    "use_cache=False, mask of ones": error(use_cache=False, attention_mask=torch.ones_like(row)),
}
for call, difference in seen.items():
    print(f"{call:32} differs from the text alone by {difference:.2g}")
assert [difference > 0.1 for difference in seen.values()] == [True, False, True], seen
PY
