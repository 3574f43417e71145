"""The processes that train together, and the few things that they exchange.

Groups of torch.distributed: one for tensors on the device (NCCL on GPUs, Gloo on processors), and two of Gloo for the
host, so that what ranks say of a batch ahead never waits behind what they say in a step.
W ranks, m rows per rank, d width.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

HOST_PATIENCE = timedelta(hours=24)
"""How long a rank waits for the others on the host: a measurement may rest for long; who supervises it ends it."""


@dataclass(eq=False)
class Ranks:
    """This process's place among `size` processes.

    device_group, host_group, ahead_group: the same processes, in the same order; None is torch's default group.
    """

    device_group: Any = None
    host_group: Any = None
    ahead_group: Any = None
    rank: int = field(init=False)
    size: int = field(init=False)
    silent: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.rank, self.size = dist.get_rank(self.device_group), dist.get_world_size(self.device_group)

    @cached_property
    def on_one_host(self) -> bool:
        """Whether all ranks are; asked of all at once."""
        return len(set(self.all_values(os.uname().nodename))) == 1

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Within, nothing of a step crosses: every rank keeps what is its own, and the shapes stay as they are.

        What training does then means nothing; how long it takes is the step's time without communication.
        """
        self.silent = True
        try:
            yield
        finally:
            self.silent = False

    def all_gather(self, own: Tensor) -> Tensor:
        """[m, d] of each rank -> [W m, d], in the order of ranks; m must be the same on all."""
        gathered = own.new_empty(self.size * own.shape[0], *own.shape[1:])
        if self.silent:
            gathered.view(self.size, *own.shape).copy_(own)
        else:
            _all_gather(gathered, own.contiguous(), group=self.device_group)
        return gathered

    def reduce_scatter(self, rows: Tensor) -> Tensor:
        """[W m, d] of each rank -> this rank's [m, d], summed over ranks."""
        own = rows.new_empty(rows.shape[0] // self.size, *rows.shape[1:])
        if self.silent:
            own.copy_(rows.view(self.size, *own.shape)[self.rank])
        else:
            _reduce_scatter(own, rows.contiguous(), group=self.device_group)
        return own

    def all_reduce(self, values: Tensor) -> Tensor:
        """`values`, summed over ranks in place."""
        if not self.silent:
            dist.all_reduce(values, group=self.device_group)
        return values

    def host_max(self, values: Tensor) -> Tensor:
        """The largest of `values`, a host tensor, over ranks, in place."""
        if not self.silent:
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.host_group)
        return values

    def host_sum(self, values: Tensor) -> Tensor:
        """The sum of `values`, a host tensor, over ranks, in place."""
        dist.all_reduce(values, group=self.host_group)
        return values

    def first(self, value: Any) -> Any:
        """Rank 0's `value`, whatever the others have."""
        return self.all_values(value)[0]

    def all_values(self, value: Any) -> list[Any]:
        """Every rank's `value`, anything that pickles."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.host_group)
        return values

    def ahead_gather(self, values: Tensor) -> tuple[Tensor, Any]:
        """[n] of each rank -> [W, n] on the host, to be read once the second, a `dist.Work`, was waited for."""
        gathered = values.new_empty(self.size * len(values))
        work = _all_gather(gathered, values, group=self.ahead_group, async_op=True)
        return gathered.view(self.size, len(values)), work

    def alike(self, tensors: Sequence[Tensor]) -> None:
        """Gives every rank rank 0's values of these tensors, in one flat broadcast per dtype."""
        source = 0 if self.device_group is None else dist.get_global_rank(self.device_group, 0)
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            chosen = [tensor.detach() for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in chosen])
            dist.broadcast(flat, source, group=self.device_group)
            for tensor, part in zip(chosen, flat.split([tensor.numel() for tensor in chosen]), strict=True):
                tensor.copy_(part.view(tensor.shape))


def connect(device: torch.device) -> Ranks:
    """Joins the other processes that torchrun started, over NCCL for a GPU and Gloo for a processor.

    Multicast over NVLink stays off.
    """
    os.environ["NCCL_NVLS_ENABLE"] = "0"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device, timeout=HOST_PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=HOST_PATIENCE)
    return Ranks(None, *(dist.new_group(backend="gloo", timeout=HOST_PATIENCE) for _ in range(2)))


def disconnect() -> None:
    """Leaves the other processes; whatever captured an exchange with them must be gone before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.destroy_process_group()


_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""Under their newer names where torch has them."""
