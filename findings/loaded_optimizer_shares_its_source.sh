#!/usr/bin/env bash
# Expected: `optimizer.load_state_dict(state)` copies, as `module.load_state_dict(state)` does: the two optimisers are
#   independent afterwards.
# Seen: where dtype and device fit, moments and step counters are the very tensors of the source. A step of one
#   optimiser moves the other's moments and counts its step, so two branches trained from one state spoil each other.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch

source_weight, target_weight = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
source, target = (torch.optim.AdamW([weight]) for weight in (source_weight, target_weight))
source_weight.grad = torch.ones(4)
source.step()
target.load_state_dict(source.state_dict())
shared = {key: value.data_ptr() == target.state[target_weight][key].data_ptr()
          for key, value in source.state[source_weight].items()}
before = [target.state[target_weight][key].clone().flatten()[0].item() for key in ("step", "exp_avg")]
source.step()  # the target does nothing
after = [target.state[target_weight][key].flatten()[0].item() for key in ("step", "exp_avg")]
print("shared:", shared)
print(f"target's step and first moment {before}, after a step of the source {after}")
assert shared == {"step": True, "exp_avg": True, "exp_avg_sq": True}, shared
assert before[0] == 1 and after[0] == 2 and after[1] != before[1], (before, after)
PY
