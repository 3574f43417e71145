"""Training on several processes, each item encoded once among all of them; on torch.distributed alone.

Every rank (process) has a replica of the models and users of its own. A step is the single-process step on the joined
batch, to the last digit that summation order leaves:
1. `plans`: the ranks tell each other their unique items and loss terms, on the host and one batch ahead; each computes
   the same sorted list of them all and the same owners, balanced in tokens.
2. `layout`: each rank encodes what it owns; encodings are gathered by all, and in the backward pass their gradients are
   summed at the owner.
3. The CF module reads its own users' slots; its loss counts as much as it has terms (`training`).
4. `gradients`: one all-reduce of all gradients, then clipping and the optimizers, the same on every rank.
A rank without users, or without items to encode, takes part in every exchange.

Start processes with torchrun, call `connect`, wrap a `Training` in `DistributedTraining.of`, and give it to the
method that trains; `accumulation_steps="auto"` is not for several ranks, whose clocks would choose differently.
At the end drop method and training, whose graphs hold collectives, and call `disconnect`.
"""

from gram_core.distributed.plans import ExchangeCosts
from gram_core.distributed.ranks import Ranks, connect, disconnect
from gram_core.distributed.sharded import shard_encoder, zero_redundancy
from gram_core.distributed.training import DistributedTraining

__all__ = ["DistributedTraining", "ExchangeCosts", "Ranks", "connect", "disconnect", "shard_encoder", "zero_redundancy"]
