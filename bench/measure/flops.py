"""What a step is worth: useful floating-point operations, fewest bytes, and the rates this device reaches.

Useful: real tokens only, forward and backward, nothing recomputed. The rates are measured in the same process, a large
matrix product and a large copy, so that no table of peaks has to be believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from gram_core.batch import Batch
from gram_core.training import Training

FORWARD_AND_BACKWARD = 3
"""A backward pass multiplies twice where the forward pass multiplies once."""
REPEATS = 5


def encoder_flops(model: PreTrainedModel, lengths: Tensor) -> int:
    """Forward operations of a transformer encoder on texts of these lengths [n]: matrix products and attention."""
    embeddings = {id(module) for module in model.get_submodule("embeddings").modules()}
    per_token = sum(
        2 * module.in_features * module.out_features
        for module in model.modules()
        if isinstance(module, nn.Linear) and id(module) not in embeddings
    )
    config = model.config
    attention = 4 * int(config.num_hidden_layers) * int(config.hidden_size)
    return per_token * int(lengths.sum()) + attention * int((lengths * lengths).sum())


def cf_flops(training: Training, batch: Batch) -> int:
    """Operations of the CF module's loss on a batch, forward and backward, as torch counts them."""
    slots = torch.zeros(*batch.items.shape, training.encoder.width, device=training.device, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        training.cf_module.loss(slots, batch.to(training.device)).backward()
    for parameter in training.cf_module.parameters():
        parameter.grad = None
    return int(counter.get_total_flops())


def optimizer_bytes(training: Training) -> int:
    """Fewest bytes of one update of encoder and CF module: each parameter, gradient and state read, all but the
    gradient written."""
    states = {torch.optim.AdamW: 2, torch.optim.Adam: 2, torch.optim.SGD: 0}
    total = 0
    for optimizer in (training.optimization.encoder_optimizer, training.optimization.cf_optimizer):
        for group in optimizer.param_groups if optimizer is not None else ():
            kept = 1 + states.get(type(optimizer), 2)
            total += sum((2 * kept + 1) * p.numel() * p.element_size() for p in group["params"])
    return total


@dataclass(frozen=True)
class Rates:
    """What the device reaches: multiply-adds counted as two operations, bytes read plus bytes written."""

    matrix_flops_per_s: float
    matrix: str
    """The product that was timed, in words."""
    bytes_per_s: float


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rates of a large square product in `dtype` and of a large copy on `device`, medians after a warm-up."""
    size = 8192 if device.type == "cuda" else 1024
    rate = matrix_rate(device, dtype, size)
    source = torch.empty(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    copy_s = median_s(lambda: target.copy_(source), device)
    name = str(dtype).removeprefix("torch.")
    tf32 = " (TF32)" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else ""
    return Rates(rate, f"{name}{tf32} product of {size} x {size}", 2 * source.nbytes / copy_s)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """Operations per second of a square product of this size in `dtype`."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    return 2 * size**3 / median_s(lambda: a @ b, device)


def median_s(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes on the device, the median of a few times after a warm-up."""
    times = []
    for _ in range(REPEATS + 2):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return sorted(times[2:])[REPEATS // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_flops(
    model: PreTrainedModel,
    training: Training,
    batches: Sequence[Batch],
    passes: Sequence[Tensor],
    forward_only: Sequence[bool],
) -> float:
    """Useful operations per step over `batches`: encoder passes over the items of `passes`, and the CF module.

    forward_only: which of the passes have no backward.
    """
    total = sum(cf_flops(training, batches[0]) for _ in batches)
    for items, forward in zip(passes, forward_only, strict=True):
        times = 1 if forward else FORWARD_AND_BACKWARD
        total += times * encoder_flops(model, training.table.lengths[items])
    return total / len(batches)
