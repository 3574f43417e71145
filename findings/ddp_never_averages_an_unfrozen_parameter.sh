#!/usr/bin/env bash
# Expected: a parameter that is frozen when DistributedDataParallel wraps the model and unfrozen later (gradual
#   unfreezing) is averaged from then on, or the next forward pass raises an error.
# Seen: it gets the rank's own gradient for ever, beside averaged gradients of the other parameters. Ranks drift apart.
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
    encoder, head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for layer in (encoder, head):
        nn.init.ones_(layer.weight)
    encoder.weight.requires_grad_(False)
    model = DistributedDataParallel(nn.Sequential(encoder, head))
    x = torch.tensor([[1.0 + rank]])
    model(x).sum().backward()
    encoder.weight.requires_grad_(True)
    for step in range(2):
        model.zero_grad()
        model(x).sum().backward()
        gradients = encoder.weight.grad.item(), head.weight.grad.item()
        print(f"rank {rank}, step {step}: gradients of encoder {gradients[0]}, head {gradients[1]}", flush=True)
        assert gradients == (1.0 + rank, 1.5), gradients
    dist.barrier()  # no rank leaves while another still talks to it
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, (os.path.join(os.getcwd(), "store"),), nprocs=2)
PY
python ranks.py
