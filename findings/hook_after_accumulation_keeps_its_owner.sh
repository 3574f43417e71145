#!/usr/bin/env bash
# Expected: a hook of a tensor that refers back to the tensor's owner is a cycle that Python's collector finds, whichever
#   of the tensor's hooks it is.
# Seen: behind register_hook it does; behind register_post_accumulate_grad_hook the owner, the parameter and what both
#   hold stay for the life of the process, as do optimizers that step inside the backward pass in that way.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import gc
import weakref

import torch


class Owner:
    def __init__(self, register):
        self.parameter = torch.nn.Parameter(torch.zeros(3))
        getattr(self.parameter, register)(self.called)

    def called(self, _):
        pass


def stays(register):
    owner = Owner(register)
    reference = weakref.ref(owner)
    del owner
    gc.collect()
    return reference() is not None


found = {name: stays(name) for name in ("register_hook", "register_post_accumulate_grad_hook")}
print(*(f"{name}: {'stays' if kept else 'is collected'}" for name, kept in found.items()), sep="\n")
assert found == {"register_hook": False, "register_post_accumulate_grad_hook": True}, found
PY
