"""Captured steps on several GPUs, started by `torch.distributed.run`: rank 0 prints each trial's findings as JSON.

A trial trains the same model three times on the same batches: captured, with the same functions launched one by one,
and by the eager engine. Ranks have unequally many users, in one step none.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from gram_core.batch import Batch, ItemTable
from gram_core.cf_modules.nrms import NRMS
from gram_core.distributed import DistributedTraining, Ranks, connect, disconnect, zero_redundancy
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.engines import fast
from gram_core.exactness import parameters
from gram_core.methods.e2e import E2E
from gram_core.methods.e2e_unique import E2EUnique
from gram_core.methods.multi_step import MultiStep
from gram_core.methods.single_step import SingleStep
from gram_core.training import Optimization, Training

ITEMS, TEXT_LENGTH, SLOTS = 60, 24, 12
METHODS: dict[str, tuple[type, Any]] = {
    "e2e": (E2E, None),
    "e2e_unique": (E2EUnique, None),
    "single_step": (SingleStep, None),
    "multi_step": (MultiStep, MultiStep.Settings(accumulation_steps=4)),
}


class Line(NamedTuple):
    """What one trial trains. family: `model_type`; lora: adapters on all linears, which alone learn."""

    method: str
    deduplicate: str
    family: str = "bert"
    lora: bool = False
    sharding: str = ""


LINES = [
    Line("e2e", "local"),
    Line("e2e_unique", "global"),
    Line("single_step", "local"),
    Line("single_step", "global"),
    Line("single_step", "global", sharding="zero1"),
    Line("multi_step", "global"),
    Line("single_step", "global", "qwen3"),
    Line("multi_step", "global", "modernbert"),
    *([Line("single_step", "global", "qwen3", lora=True)] if find_spec("peft") else []),
]
RATE = 1e-3
SIZES: dict[str, Any] = dict(
    vocab_size=300, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=64, initializer_range=0.05, pad_token_id=0,
)  # fmt: skip
OTHER_SIZES: dict[str, dict[str, Any]] = {
    "bert": dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "qwen3": dict(num_key_value_heads=2, head_dim=16),
    "modernbert": dict(global_attn_every_n_layers=2, local_attention=8, bos_token_id=1, eos_token_id=2, cls_token_id=1,
                       sep_token_id=2),
}  # fmt: skip
TIERS = {"bert": "packed", "qwen3": "general", "modernbert": "general"}


def make_model(line: Line) -> PreTrainedModel:
    model = AutoModel.from_config(AutoConfig.for_model(line.family, **SIZES, **OTHER_SIZES[line.family]))
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if not line.lora:
        return model
    import peft

    options = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    return peft.get_peft_model(model, options).get_base_model()


def make(ranks: Ranks, device: torch.device, line: Line, amp: torch.dtype | None) -> DistributedTraining:
    torch.manual_seed(0)
    encoder = HuggingFaceEncoder(make_model(line).to(device), pad_token_id=0, text_length=TEXT_LENGTH)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, TEXT_LENGTH + 1, (ITEMS,), generator=generator).tolist()
    table = ItemTable.from_lists([torch.randint(5, 300, (n,), generator=generator).tolist() for n in lengths])
    cf_module = NRMS(64, heads=4).to(device)
    options: dict[str, Any] = dict(lr=RATE, eps=1e-3, fused=True)
    optimizers = []
    for module in (encoder, cf_module):
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if line.sharding == "zero1":
            optimizers.append(zero_redundancy(torch.optim.AdamW, learning, ranks, **options))
        else:
            optimizers.append(torch.optim.AdamW(learning, **options))
    return DistributedTraining.of(
        Training(table, encoder, cf_module, Optimization(*optimizers), amp), ranks, line.deduplicate
    )


def batches(rank: int, steps: int, varying: bool) -> list[Batch]:
    """Users by turns 4 and 2, the other way round on the next rank; in the last of varying steps rank 1 has none."""
    generator = torch.Generator().manual_seed(100 + rank)
    made = []
    for step in range(steps):
        users = 4 if not varying else 0 if step == steps - 1 and rank == 1 else 4 - 2 * ((step + rank) % 2)
        unique = ITEMS if not varying else (ITEMS, ITEMS, 5, ITEMS)[step % 4]
        made.append(
            Batch(
                torch.randint(0, unique, (users, SLOTS), generator=generator),
                torch.ones(users, SLOTS, dtype=torch.bool),
                torch.randint(0, 2, (users,), generator=generator),
                SLOTS - 2,
            )
        )
    return made


def trained(
    ranks: Ranks, device: torch.device, line: Line, amp: torch.dtype | None, how: str, steps: int, varying: bool
) -> tuple[dict[str, Tensor], list[float], dict[str, Any]]:
    """Parameters after all steps, the joined losses, and how calls were taken."""
    training = make(ranks, device, line, amp)
    method_class, settings = METHODS[line.method]
    counts: dict[str, Any] = {}
    with ExitStack() as stack:
        if how == "eager":
            method = method_class(training, settings)
        else:
            method = fast.build(method_class, training, settings)
            if how == "launched":
                for function in method.functions:
                    stack.enter_context(function.uncaptured())
        losses = [method.step(batch) for batch in method.training.ahead(batches(ranks.rank, steps, varying))]
        method.finish()
    if how == "captured":
        counts = {**method.capture_counts(), "sums": method.training.gradient_sums, "tier": method.tier.tier}
    total = method.training.joint_losses(torch.stack(losses)).tolist()
    found = parameters({"encoder": training.encoder, "cf": training.cf_module})
    return {name: value.detach().clone() for name, value in found.items()}, total, counts


def apart(ranks: Ranks, found: dict[str, Tensor]) -> float:
    """The largest difference of a parameter between ranks."""
    own = torch.cat([value.double().reshape(-1) for value in found.values()])
    other = own.clone()
    torch.distributed.broadcast(other, 0)
    return float(ranks.host_max((own - other).abs().max().cpu()[None])[0])


def largest(losses: list[float], others: list[float]) -> float:
    """The largest difference of a step's losses."""
    return max(abs(a - b) for a, b in zip(losses, others, strict=True))


def distance(found: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((found[name] - other[name]).double().square().sum()) for name in found))


def main() -> None:
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    ranks = connect(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True)
    for line in LINES:
        for amp in (None, torch.bfloat16):
            options = (ranks, device, line, amp)
            captured, losses, counts = trained(*options, "captured", 16, True)
            launched, launched_losses, _ = trained(*options, "launched", 16, True)
            eager, eager_losses, _ = trained(*options, "eager", 16, True)
            many, _, _ = trained(*options, "captured", 200, False)
            exact, exact_losses, _ = trained(*options[:-1], None, "eager", 16, True)
            fresh = make(ranks, device, line, amp)
            start = parameters({"encoder": fresh.encoder, "cf": fresh.cf_module})
            report = {
                "line": line._asdict(),
                "amp": str(amp),
                "counts": counts,
                "differs": max(float((captured[name] - launched[name]).abs().max()) for name in captured),
                "losses_differ": largest(losses, launched_losses),
                "moved": distance(exact, start),
                "from_exact": distance(captured, exact),
                "eager_from_exact": distance(eager, exact),
                "losses_from_exact": largest(losses, exact_losses),
                "eager_losses_from_exact": largest(eager_losses, exact_losses),
                "apart": apart(ranks, captured),
                "apart_after_200": apart(ranks, many),
            }
            if ranks.rank == 0:
                print(json.dumps(report), flush=True)
    gc.collect()
    disconnect()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
