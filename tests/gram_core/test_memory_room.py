"""A memory budget of captured chunks: what it has room for keeps its graph, and nothing else changes."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from gram_core.batch import Batch, ItemTable
from gram_core.cf_modules.nrms import NRMS
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.engines._captured_chunks import CapturedChunkedStep
from gram_core.exactness import parameters, relative_errors
from gram_core.methods.single_step import SingleStep
from gram_core.training import Optimization, Training
from tests.gram_core.test_captured_chunks import chunked, prepared
from tests.gram_core.test_fast_engine import batch

BYTES = 100.0
"""Of a token's graph, as the planted device has it."""


@pytest.fixture
def planted_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which 3,000 bytes stay between steps, and a graph takes as many as it has tokens."""
    held: list[float] = [3000.0]
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held[0])
    graph_of = CapturedChunkedStep._graph_of

    def encode(self: CapturedChunkedStep, chunk: dict[str, torch.Tensor]) -> torch.Tensor:
        graph = graph_of(self, chunk)
        assert graph.requires_grad
        held[0] += BYTES * int(chunk["offsets"][-1])
        return graph

    monkeypatch.setattr(CapturedChunkedStep, "_graph_of", encode)


@pytest.mark.usefixtures("planted_memory")
@pytest.mark.parametrize(("budget", "kept_tokens", "expected"), [(4000, None, 0), (22_000, None, 2), (22_000, 45, 1)])
def test_a_memory_budget_keeps_what_it_has_room_for(budget: int, kept_tokens: int | None, expected: int) -> None:
    """Room for 65 tokens and more, twice, beside what stays and twice a chunk: two chunks of at most 30."""
    reference, run = prepared(), prepared()
    method = chunked(run, chunk_tokens=30, memory_budget=budget, kept_tokens=kept_tokens)
    one, kept = batch(), []
    told = method.host_inputs

    def host_inputs(given: Batch) -> Any:
        inputs = told(given)
        kept.append(len(inputs.kept))
        return inputs

    method.host_inputs = host_inputs  # type: ignore[method-assign]
    eager = SingleStep(reference)
    for _ in range(6):
        method.step(one)
        eager.step(one)
    assert kept == [0, 0, 0, expected, expected, expected]
    found, wanted = (parameters({"encoder": each.encoder, "cf": each.cf_module}) for each in (run, reference))
    assert max(relative_errors(found, wanted).values()) <= 1e-9


def large(device: str) -> tuple[Training, list[Batch]]:
    """Of which the graphs are most of what is in use: 65 KB a token in bf16; batches of several sizes."""
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=300, hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048,
        max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    encoder = HuggingFaceEncoder(BertModel(shape, add_pooling_layer=False).to(device), pad_token_id=0, text_length=128)
    table = ItemTable.from_lists([[7] * int(length) for length in torch.randint(64, 129, (96,))])
    cf_module = NRMS(512).to(device)
    optimizers = [torch.optim.AdamW(part.parameters()) for part in (encoder, cf_module)]
    items = [torch.randperm(96)[:count].view(-1, 6) for count in (96, 96, 96, 96, 48, 96, 60, 48, 96)]
    batches = [Batch(drawn, torch.ones_like(drawn, dtype=torch.bool), drawn[:, 0] % 2, 4) for drawn in items]
    return Training(table, encoder, cf_module, Optimization(*optimizers), torch.bfloat16), batches


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_memory_budget_is_kept_to_on_a_gpu() -> None:
    """Between what keeping nothing takes and what keeping everything takes it keeps some, and takes less than all."""
    peaks, kept = {}, {}
    for limit in ("all", "nothing", "budget"):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run, steps = large("cuda")
        between = (peaks["all"] + peaks["nothing"]) / 2 if limit == "budget" else None
        method = chunked(
            run, torch.bfloat16, chunk_tokens=1024, kept_tokens=0 if limit == "nothing" else None, memory_budget=between
        )
        for one in steps:
            method.step(one)
        peaks[limit] = torch.cuda.max_memory_reserved()
        kept[limit] = len(method.host_inputs(steps[0]).kept)
        del method, run
    assert 0 == kept["nothing"] < kept["budget"] < kept["all"]
    assert peaks["budget"] < peaks["all"]
