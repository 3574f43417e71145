"""One all-reduce of all gradients before clipping and the optimizers, so that every replica moves alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from gram_core.distributed.ranks import Ranks
from gram_core.training import Optimization


@dataclass(kw_only=True)
class JointOptimization(Optimization):
    """Optimizers whose gradients are those of all ranks' users together.

    reduced: the gradients of the coming step are summed already, by torch's DistributedDataParallel.
    """

    ranks: Ranks
    reduced: bool = False

    def reduce(self, parameters: Sequence[Tensor]) -> None:
        """Sums each gradient over ranks, in float32 (float64 where there is a float64 one), in one flat tensor.

        A parameter has a gradient afterwards if it has one on any rank. Shards of parameters (FSDP) are summed already.
        """
        if self.reduced:
            self.reduced = False
            return
        whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        used = self.ranks.host_max(torch.tensor([p.grad is not None for p in whole], dtype=torch.uint8))
        moving = [parameter for parameter, is_used in zip(whole, used.tolist(), strict=True) if is_used]
        if not moving:
            return
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in moving) else torch.float32
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).detach().reshape(-1).to(dtype) for p in moving]
        summed = self.ranks.all_reduce(torch.cat(parts))
        for parameter, part in zip(moving, summed.split([p.numel() for p in moving]), strict=True):
            parameter.grad = part.view(parameter.shape).to(parameter.dtype)

    def clip(self, parameters: Sequence[Tensor], max_norm: float) -> None:
        """Clips the norm of all gradients together; shards count with those that other ranks hold."""
        shards = [p.grad.to_local() for p in parameters if isinstance(p.grad, DTensor)]
        if not shards:
            return super().clip(parameters, max_norm)
        whole = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        square = self.ranks.all_reduce(torch.nn.utils.get_total_norm(shards).square())
        if whole:
            square = square + torch.nn.utils.get_total_norm(whole).square()
        factor = (max_norm / (square.sqrt() + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_ has it
        torch._foreach_mul_([*shards, *whole], factor)
        return None


def joint(optimization: Optimization, ranks: Ranks) -> JointOptimization:
    """The same optimizers, schedulers and clipping, for gradients of all ranks."""
    return JointOptimization(
        optimization.encoder_optimizer,
        optimization.cf_optimizer,
        optimization.encoder_scheduler,
        optimization.cf_scheduler,
        optimization.max_grad_norm,
        ranks=ranks,
    )
