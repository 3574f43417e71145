#!/usr/bin/env bash
# Expected: an all-reduce with MAX over ranks, one of which holds NaN, is NaN everywhere, as torch.maximum is and as SUM
#   is; or NaN is ignored everywhere, as torch.fmax does. So MAX of a loss or norm tells every rank of a NaN.
# Seen: with gloo NaN survives in one half of the tensor and is lost in the other; which half depends on the rank that
#   holds it. The halves are those that the ranks reduce, so a single number's NaN can vanish.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
cat > ranks.py <<'PY'
import os

import torch
import torch.distributed as dist

NAN = float("nan")
LOST_FROM = {0: [False, False, True, True], 1: [True, True, False, False]}


def main(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for holder in (0, 1):
        for name in ("MAX", "SUM"):
            values = torch.full((4,), NAN if rank == holder else 1.0)
            dist.all_reduce(values, op=getattr(dist.ReduceOp, name))
            print(f"rank {rank}: {name}, NaN on rank {holder}: {values.tolist()}", flush=True)
            lost = (~values.isnan()).tolist()
            assert lost == (LOST_FROM[holder] if name == "MAX" else [False] * 4), lost
    single = []
    for holder in (0, 1):
        value = torch.tensor([NAN if rank == holder else 1.0])
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        single.append(value.item())
    print(f"rank {rank}: MAX of one number, NaN on rank 0 and on rank 1: {single}", flush=True)
    assert sorted(value != value for value in single) == [False, True], single
    dist.barrier()  # no rank leaves while another still talks to it
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, (os.path.join(os.getcwd(), "store"),), nprocs=2)
PY
python ranks.py
