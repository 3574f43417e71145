#!/usr/bin/env bash
# Expected: `tie_word_embeddings=True` makes the head the embedding, so a head that a checkpoint also holds is ignored
#   or an error.
# Seen: where the two saved tensors differ, transformers keeps both, untied. It warns, but the configuration
#   still says tied: memory, gradients and parameter counts do not follow from it.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                     num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True)
LlamaForCausalLM(config).save_pretrained("model")
tensors = load_file("model/model.safetensors")
seen = {}
for name, head in (("no head", None), ("equal head", tensors["model.embed_tokens.weight"].clone()),
                   ("other head", tensors["model.embed_tokens.weight"] + 1)):
    save_file(tensors | ({} if head is None else {"lm_head.weight": head}), "model/model.safetensors", {"format": "pt"})
    model = LlamaForCausalLM.from_pretrained("model")
    seen[name] = (model.config.tie_word_embeddings, model.lm_head.weight is model.model.embed_tokens.weight)
    print(f"checkpoint with {name}: configuration says tied {seen[name][0]}, is tied {seen[name][1]}")
assert seen == {"no head": (True, True), "equal head": (True, True), "other head": (True, False)}, seen
PY
