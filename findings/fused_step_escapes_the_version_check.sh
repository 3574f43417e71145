#!/usr/bin/env bash
# Expected: an optimiser's step between a forward pass and its backward pass raises "modified by an inplace operation",
#   whichever implementation the step has; autograd's version counter guards the saved weights.
# Seen: for-loop and foreach steps bump the counter and raise. `fused=True` (also on processors) leaves the counter, and
#   the backward pass silently takes the new weights: w*w at 1 with a step to 0.9 gets the gradient 1.8.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch

seen = {}
for name, options in (("for-loop", {"foreach": False}), ("foreach", {"foreach": True}), ("fused", {"fused": True})):
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = kind([weight], lr=0.1, weight_decay=0.0, **options)
        loss = (weight * weight).sum()
        weight.grad = torch.ones(3)
        version = weight._version
        optimizer.step()
        bumps = weight._version - version
        weight.grad = None
        try:
            loss.backward()
            result = round(weight.grad[0].item(), 4)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error), error
            result = "RuntimeError"
        seen[name, kind.__name__] = (bumps > 0, result)
        print(f"{kind.__name__:6} {name:9} version bumped {bumps}; backward pass: {result}")
guarded = {result for (name, _), result in seen.items() if name != "fused"}
assert guarded == {(True, "RuntimeError")}, seen
assert seen["fused", "SGD"] == seen["fused", "AdamW"] == (False, 1.8), seen
PY
