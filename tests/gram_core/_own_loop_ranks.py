"""Two processes over Gloo that train loops of their own with `encode`, each with its batch; see test_encode_ranks."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from gram_core import Deduplicated, MultiStepEncodings, encode, encoded
from gram_core.exactness import gradients
from tests.gram_core import _own_loop as loop

LIMITS = ((None, None), (2, None), (2, 0), (2, 3))
WAYS = ("encoder", "inside", "outside", "around all")
"""What is wrapped: an encoder of ids, the module in Deduplicated, Deduplicated, the model that calls encode."""
CASES = [
    *(f"{way}, {limits}" for way in WAYS for limits in LIMITS),
    *(f"encoded, {limits}" for limits in LIMITS),
    "a rank without items",
    "two batches, one sum",
]


def batch_of(rank: int, case: str) -> tuple[Tensor, Tensor]:
    """Rank 1 has fewer distinct items, so fewer chunks, or none."""
    history, candidates = loop.batch(rank, users=5 if rank == 0 else 1)
    if case == "a rank without items" and rank:
        return torch.full_like(history, -1), torch.full_like(candidates, -1)
    return history, candidates


class EncoderOfIds(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return loop.every_id(self.model, ids) if len(ids) else loop.every_id(self.model, torch.tensor([0]))[:0]


class AroundAll(nn.Module):
    def __init__(self, model: nn.Module, tower: nn.Module, limits: dict[str, int | None]):
        super().__init__()
        self.model, self.tower, self.limits = EncoderOfIds(model), tower, limits

    def forward(self, *ids: Tensor) -> Tensor:
        return self.tower(*encode(self.model, *ids, **self.limits))


def of_tokens(module: nn.Module) -> Deduplicated:
    return Deduplicated(module, loop.TOKENS, collate=loop.padded, pool="mean")


def trained(case: str, rank: int) -> dict[str, Tensor]:
    """Gradients that are left on this rank."""
    model, tower = loop.text_model(), loop.tower()
    way, _, told = case.partition(", (")
    chunk, keep = (None if part == "None" else int(part) for part in (told[:-1] or "2, 0").split(", "))
    limits = {"chunk": chunk, "keep": keep}
    ids = batch_of(rank, case)
    if way == "around all":
        wrapped = DDP(AroundAll(model, tower, limits))  # held until backward, which its hooks wait for
        wrapped(*ids).backward()
        return gradients({"encoder": model, "tower": tower})
    if way == "outside":
        encoder = DDP(of_tokens(model))
    else:
        encoder = of_tokens(DDP(model)) if way == "inside" else DDP(EncoderOfIds(model))
    tower = DDP(tower)
    if way == "encoded":
        with encoded(encoder, *ids, **limits) as rows:
            tower(*rows).backward()
    elif case == "two batches, one sum":
        with encoder.no_sync(), tower.no_sync():
            tower(*encode(encoder, *ids, **limits)).backward()
        tower(*encode(encoder, *ids, **limits)).backward()
    else:
        tower(*encode(encoder, *ids, **limits)).backward()
    return gradients({"encoder": model, "tower": tower.module})


def refused() -> str:
    """What is said of an encoder that calls a wrapped module unseen, chunk by chunk."""
    wrapped = DDP(EncoderOfIds(loop.text_model()))
    try:
        encode(lambda ids: wrapped(ids), *loop.batch(), chunk=2)
    except RuntimeError as error:
        said = str(error)
    encode(lambda ids: wrapped(ids), *loop.batch())[0].sum().backward()  # in one piece it may
    try:
        MultiStepEncodings(wrapped, Tensor.backward)
    except ValueError as error:
        return f"{said}|{error}"
    return said


def run(rank: int, folder: str) -> None:
    """Every case, its gradients into files."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.save({case: trained(case, rank) for case in CASES}, Path(folder) / f"{rank}.pt")
        (Path(folder) / f"{rank}.txt").write_text(refused())
    finally:
        dist.destroy_process_group()
