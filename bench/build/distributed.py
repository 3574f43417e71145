"""What a case of several processes adds to a training: checks at the door, and the core's distributed parts.

Imports them where they are used: a process that trains alone does without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.configuration.config import RunSettings
from bench.configuration.method_settings import AUTO

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gram_core.distributed import DistributedTraining, Ranks
    from gram_core.training import Training


def check(method: type[Any], settings: Any, run: RunSettings, engine: str) -> None:
    """Raises ValueError where several processes cannot train by this method, with these settings."""
    if not vars(method).get("distributes", False):
        raise ValueError(f"{method.name} trains in one process; leave it out where sweep.world_size is more than 1")
    if getattr(settings, "accumulation_steps", None) == AUTO:
        raise ValueError('accumulation_steps "auto" goes by a clock, of which processes have one each; give a number')
    if run.sharding == "fsdp2":
        if getattr(settings, "accumulation_steps", None) is not None:
            raise ValueError(f'{method.name} encodes unequally often on each rank; set run.sharding = "zero1" for it')
        if engine != "eager":
            raise ValueError(f'the engine {engine} reads whole weights; set run.sharding = "zero1", or engine "eager"')
        if getattr(settings, "chunk_tokens", None) is not None:
            raise ValueError(
                'chunk_tokens makes ranks encode unequally often; leave it out with run.sharding = "fsdp2"'
            )


def shard(encoder: nn.Module, run: RunSettings, ranks: Ranks) -> None:
    """Splits the encoder over the ranks where the settings say so."""
    if run.sharding == "fsdp2":
        from gram_core.distributed import shard_encoder

        shard_encoder(encoder, ranks)


def in_parts(optimizer: type[torch.optim.Optimizer], ranks: Ranks) -> Callable[..., torch.optim.Optimizer]:
    """The optimizer's class with its state spread over the ranks."""
    from gram_core.distributed import zero_redundancy

    def make(parameters: Any, **options: Any) -> torch.optim.Optimizer:
        return zero_redundancy(optimizer, parameters, ranks, **options)

    return make


def distributed(training: Training, ranks: Ranks, deduplicate: Any, run: RunSettings) -> DistributedTraining:
    """The training as one of `ranks`."""
    import torch

    from bench.measure.exchange import exchange_costs
    from gram_core.distributed import DistributedTraining

    options: dict[str, Any] = {"copies": run.gradient_sums == "copies"}
    if run.gradient_dtype == "bf16":
        options["gradient_dtype"] = torch.bfloat16
    if deduplicate == "auto":
        encoder: Any = training.encoder
        dtype = training.amp_dtype or next(encoder.parameters()).dtype
        options["costs"] = exchange_costs(encoder, training.table.lengths, dtype, ranks)
    return DistributedTraining.of(training, ranks, deduplicate, **options)
