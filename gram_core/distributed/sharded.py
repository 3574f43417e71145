"""Less memory per rank: the optimizer's state in parts (ZeRO-1), or the encoder itself in parts (FSDP2); both torch's.

An encoder in parts is whole only while it computes, layer by layer, so that it may be larger than a GPU. Its gradients
are summed where its parts are; only the CF module's remain for the all-reduce.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer

from gram_core.distributed.ranks import Ranks


def zero_redundancy(
    optimizer: type[Optimizer], parameters: Iterable[nn.Parameter], ranks: Ranks, **options: Any
) -> Optimizer:
    """`optimizer(parameters, **options)`, whose state lies on one rank each; steps like it on every rank."""
    return ZeroRedundancyOptimizer(
        list(parameters), optimizer_class=optimizer, process_group=ranks.device_group, **options
    )


def shard_encoder(encoder: nn.Module, ranks: Ranks, mesh: DeviceMesh | None = None) -> None:
    """Splits the encoder's parameters over the ranks, layer by layer, in place; before its optimizer is made.

    Every rank must call the encoder equally often: methods encode a step's items at once then (no chunk_tokens).
    mesh: the ranks as a mesh of one dimension; None makes it of all processes.
    """
    device = next(encoder.parameters()).device.type
    mesh = mesh or init_device_mesh(device, (ranks.size,))
    layers = [layer for part in encoder.modules() if isinstance(part, nn.ModuleList) for layer in part]
    for part in [*layers, encoder]:
        fully_shard(part, mesh=mesh)
    for part in encoder.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
