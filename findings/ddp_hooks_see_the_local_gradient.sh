#!/usr/bin/env bash
# Expected: a parameter's post-accumulate-gradient hook under DistributedDataParallel sees the averaged gradient (the
#   hook runs after accumulation, and DDP averages during the backward pass), so a step in the hook keeps ranks equal.
# Seen: the hook sees the rank's own gradient, whether registered before or after wrapping; averaging comes later. A
#   step inside the hook, the usual way to free gradients early, lets the ranks' weights drift apart without an error.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
cat > ranks.py <<'PY'
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def main(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for order in ("before wrapping", "after wrapping"):
        layer, seen = nn.Linear(1, 1, bias=False), []
        nn.init.zeros_(layer.weight)

        def step(weight, seen=seen):
            seen.append(weight.grad.item())
            with torch.no_grad():
                weight -= weight.grad

        if order == "before wrapping":
            layer.weight.register_post_accumulate_grad_hook(step)
        model = DistributedDataParallel(layer)
        if order == "after wrapping":
            layer.weight.register_post_accumulate_grad_hook(step)
        model(torch.tensor([[1.0 + rank]])).sum().backward()
        print(f"rank {rank}, {order}: hook saw {seen[0]}, gradient after backward {layer.weight.grad.item()}, "
              f"weight {layer.weight.item()}", flush=True)
        assert seen == [1.0 + rank], seen
        assert layer.weight.grad.item() == 1.5
        assert layer.weight.item() == -1.0 - rank
    dist.barrier()  # no rank leaves while another still talks to it
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, (os.path.join(os.getcwd(), "store"),), nprocs=2)
PY
python ranks.py
