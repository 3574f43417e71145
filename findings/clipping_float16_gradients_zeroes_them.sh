#!/usr/bin/env bash
# Expected: clip_grad_norm_ with max_norm=1 scales finite gradients to norm 1.
# Seen: each gradient's norm is rounded to the gradient's dtype. A million float16 gradients of 100 have norm 100000,
#   which float16 cannot hold: the norm is inf, the factor 1/inf is 0, and every gradient of the model becomes 0, those
#   in float32 too. Nothing is raised, and momentum goes on moving the weights.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch

table = torch.nn.Parameter(torch.zeros(1_000_000, dtype=torch.float16))
head = torch.nn.Parameter(torch.zeros(4, dtype=torch.float32))
table.grad, head.grad = torch.full_like(table, 100.0), torch.ones_like(head)
assert table.grad.isfinite().all()
true_norm = table.grad.float().norm().item()
norm = torch.nn.utils.clip_grad_norm_([table, head], max_norm=1.0)
print(f"true norm {true_norm:.0f}, returned {norm.item()} ({norm.dtype})")
print(f"float16 gradients now {table.grad[0].item()}, float32 gradients of the head now {head.grad.tolist()}")
assert norm.item() == float("inf"), norm
assert not table.grad.any() and not head.grad.any()
PY
