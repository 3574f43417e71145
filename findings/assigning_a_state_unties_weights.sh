#!/usr/bin/env bash
# Expected: `load_state_dict(state, assign=True)` differs from the copying one in memory alone; an embedding and a head
#   that are one parameter stay one.
# Seen: they become two parameters that share storage. An optimiser made afterwards holds both and steps twice on the
#   same numbers, each time with a part of the gradient: a step of SGD happens to be right, Adam moves twice as far.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch
from torch import nn


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids))


ids = torch.arange(5)
seen = {}
for assign in (False, True):
    model = Tied()
    model.load_state_dict(Tied().state_dict(), assign=assign)
    start = model.embedding.weight.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(ids).pow(2).sum().backward()
    optimizer.step()
    moved = (model.embedding.weight - start).abs().max().item()
    seen[assign] = (model.head.weight is model.embedding.weight, len(list(model.parameters())), round(moved, 4))
    print(f"assign={assign}: one parameter {seen[assign][0]}, parameters {seen[assign][1]}, "
          f"shared storage {model.head.weight.data_ptr() == model.embedding.weight.data_ptr()}, moved by {moved:.4f}")
assert seen == {False: (True, 1, 0.01), True: (False, 2, 0.02)}, seen
PY
