#!/usr/bin/env bash
# Expected: an optimiser's state loads as it was saved. State that an optimiser keeps in float32 for bfloat16 parameters
#   (moments, a master copy of the weights) is still float32 after a checkpoint.
# Seen: `Optimizer.load_state_dict` casts every floating-point tensor of the state except `step` to the parameter's
#   dtype. A float32 master copy comes back as bfloat16: resuming is not continuing, and nothing is reported.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch


class MasterSGD(torch.optim.Optimizer):
    """SGD that keeps a float32 copy of its bfloat16 parameters."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1e-3})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                master = state.setdefault("master", parameter.float())
                master -= group["lr"] * parameter.grad.float()
                parameter.copy_(master)


weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
optimizer = MasterSGD([weight])
weight.grad = torch.ones_like(weight)
optimizer.step()
torch.save(optimizer.state_dict(), "optimizer.pt")
saved = torch.load("optimizer.pt")["state"][0]["master"]
resumed = MasterSGD([weight])
resumed.load_state_dict(torch.load("optimizer.pt"))
loaded = resumed.state[weight]["master"]
print(f"saved {saved.dtype} {saved[0].item():.6f}, loaded {loaded.dtype} {loaded[0].item():.6f}")
assert (saved.dtype, loaded.dtype) == (torch.float32, torch.bfloat16), (saved.dtype, loaded.dtype)
assert loaded[0].item() != saved[0].item()
PY
