#!/usr/bin/env bash
# Expected: dist.reduce(x, dst=0) puts the sum into rank 0's x and leaves the others' x as it was.
# Seen: with gloo the other rank's x is part sum, part input: partial sums are left in place. The local value is gone
#   for a rank that logs its own loss next to the mean.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
cat > ranks.py <<'PY'
import os

import torch
import torch.distributed as dist


def main(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for target in (0, 1):
        values = torch.full((4,), 1.0 + rank)
        dist.reduce(values, dst=target)
        print(f"rank {rank}: reduce to {target} leaves {values.tolist()}", flush=True)
        if rank == target:
            assert values.tolist() == [3.0] * 4, values
        else:
            assert sorted(set(values.tolist())) == [1.0 + rank, 3.0], values
    dist.barrier()  # no rank leaves while another still talks to it
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, (os.path.join(os.getcwd(), "store"),), nprocs=2)
PY
python ranks.py
