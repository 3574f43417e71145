#!/usr/bin/env bash
# Expected: token_type_ids of zeros are what a model assumes where it is given none, as in BERT.
# Seen: GPT-2 has no table of token types and looks them up in its table of words: zeros add the embedding of word 0 to
#   every token, and nothing says so.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

torch.manual_seed(0)
ids = torch.tensor([[5, 6, 7, 8]])
sizes = dict(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
models = {
    "bert": BertModel(BertConfig(**sizes)).eval(),
    "gpt2": GPT2Model(GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=4)).eval(),
}
changed = {}
with torch.no_grad():
    for name, model in models.items():
        plain = model(ids).last_hidden_state
        zeros = model(ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state
        changed[name] = (zeros - plain).norm().div(plain.norm()).item()
    gpt2 = models["gpt2"]
    words = gpt2(inputs_embeds=gpt2.wte(ids) + gpt2.wte(torch.zeros_like(ids))).last_hidden_state
    zeros = gpt2(ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state
    as_words = (words - zeros).abs().max().item()
print(f"zeros change bert's states by {changed['bert']:.2g} of their size, gpt2's by {changed['gpt2']:.2g}")
print(f"word 0 added to each token of gpt2 is the same to {as_words:.2g}")
assert changed["bert"] < 1e-6 and changed["gpt2"] > 0.1 and as_words < 1e-5, (changed, as_words)
PY
