"""Operations of models and layers against a count by hand, from the sizes in their papers and configurations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.measure.flops import cf_flops, encoder_flops
from bench.measure.operations import Operations
from gram_core.encoders.huggingface import HuggingFaceEncoder
from tests.bench._encoder_folders import FAMILIES, model_of
from tests.gram_core import _models as m

LENGTHS = [2, 7, 7, 13, 20]
TOKENS, PAIRS = sum(LENGTHS), sum(length * length for length in LENGTHS)
D, INNER, LAYERS = 32, 48, 2
"""Of every family's tiny model; key and value heads of the decoders have half the width."""

SQUARE, PLAIN, GATED = D * D, 2 * D * INNER, 3 * D * INNER
GROUPED = 2 * SQUARE + 2 * D * D // 2
OF_TOKEN = {
    **dict.fromkeys(FAMILIES, 4 * SQUARE + PLAIN),
    **dict.fromkeys(("modernbert", "nomic_bert", "gte"), 4 * SQUARE + GATED),
    **dict.fromkeys(("eurobert", "qwen2", "qwen3", "llama", "mistral", "gemma3_text"), GROUPED + GATED),
    "gpt2": 4 * SQUARE + 2 * D * 4 * D,
}
"""Multiplications of a token in one layer."""
EMBEDDED = {"electra": 16 * D, "albert": 16 * D}
"""Those of its embedding, which is narrower than the model."""
SPAN = 32
"""Relative positions that DeBERTa's tiny model tells apart, each with a query and a key of its own."""


def by_hand(family: str) -> int:
    """Multiplications and additions of a forward pass over texts of LENGTHS."""
    products = LAYERS * (OF_TOKEN[family] * TOKENS + 2 * D * PAIRS) + EMBEDDED.get(family, 0) * TOKENS
    if family == "deberta-v2":
        products += LAYERS * (2 * SPAN * SQUARE + 2 * SPAN * D * TOKENS)
    if family == "xlnet":  # each text has twice its tokens of positions, with keys and scores of their own
        products += LAYERS * (2 * SQUARE * TOKENS + 2 * D * PAIRS)
    return 2 * products


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_every_family_are_those_by_hand(family):
    model = model_of(family)
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    if getattr(model, "pooler", None) is not None:
        model.register_module("pooler", None)
    lengths = torch.tensor(LENGTHS)
    forward = encoder_flops(model, lengths)
    assert forward == by_hand(family)
    if family != "xlnet":  # whose positions get no gradient
        assert encoder_flops(model, lengths, backward=True) == 3 * forward
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_layers_and_checkpointing_change_what_is_useful():
    """Nothing runs backwards below the first layer that is trained; what checkpointing computes again is no use."""
    model, lengths = model_of("bert"), torch.tensor(LENGTHS)
    model.register_module("pooler", None)
    forward, whole = encoder_flops(model, lengths), encoder_flops(model, lengths, backward=True)
    model.gradient_checkpointing_enable()
    model.train()
    assert encoder_flops(model, lengths, backward=True) == whole
    assert model.training
    model.embeddings.requires_grad_(False)
    model.encoder.layer[0].requires_grad_(False)
    first_products = 3 * 2 * SQUARE * TOKENS  # queries, keys, values of a layer whose input asks for no gradient
    assert encoder_flops(model, lengths, backward=True) == forward + (2 * forward // LAYERS - first_products)
    model.requires_grad_(False)
    assert encoder_flops(model, lengths, backward=True) == forward


def test_adapters_leave_out_the_gradients_of_frozen_weights():
    peft = pytest.importorskip("peft")
    model, lengths, rank = model_of("bert"), torch.tensor(LENGTHS), 4
    model.register_module("pooler", None)
    forward = encoder_flops(model, lengths)
    config = peft.LoraConfig(r=rank, target_modules=["query", "key", "value", "dense"])
    model = peft.get_peft_model(model, config).get_base_model()
    adapters = 2 * LAYERS * TOKENS * rank * (4 * 2 * D + 2 * (D + INNER))
    assert encoder_flops(model, lengths) == forward + adapters
    attention = 2 * 2 * D * PAIRS * LAYERS
    linears = forward - attention
    below = 3 * 2 * SQUARE * TOKENS + 2 * TOKENS * rank * 3 * D  # the first layer's input asks for no gradient
    expected = forward + adapters + 2 * attention + linears + 2 * adapters - below
    assert encoder_flops(model, lengths, backward=True) == expected


def test_pooling_and_head_are_counted_once_a_text():
    encoder = m.make_encoder(pooling="attention", with_head=True)
    lengths = torch.tensor([2, 5, 8])
    width, out, query = 32, 16, 200
    of_pooling = 2 * (query * width + query) * 15
    expected = encoder_flops(encoder.model, lengths) + of_pooling + 2 * 3 * 2 * width * out
    assert isinstance(encoder, HuggingFaceEncoder)
    assert encoder_flops(encoder, lengths) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_counted(kind, dtype):
    """torch's own counter sees nothing of an LSTM on a processor, most of what knowledge tracing computes."""
    users, steps, width = 3, 11, 64
    layers = kind(width, width, 2, dtype=dtype)
    rows = torch.randn(steps, users, width, dtype=dtype, requires_grad=True)
    gates = 4 if kind is nn.LSTM else 3
    forward = 2 * users * steps * 2 * gates * width * 2 * width
    with Operations() as counter:
        out, _ = layers(rows)
    assert counter.total == forward
    with Operations() as counter:
        out.sum().backward()
    first_state = 2 * users * 2 * gates * width * width  # is given, and asks for no gradient
    assert 2 * forward - 2 * first_state <= counter.total <= 2 * forward


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_is_counted_without_what_its_kernel_computes_again(dtype):
    heads, length, width = 4, 10, 16
    queries, keys, values = (torch.randn(2, heads, length, width, dtype=dtype, requires_grad=True) for _ in range(3))
    forward = 2 * heads * 2 * length * length * 2 * width
    with Operations() as counter:
        out = F.scaled_dot_product_attention(queries, keys, values)
    assert counter.total == forward
    with Operations() as counter:
        out.sum().backward()
    assert counter.total == 2 * forward


def test_most_operations_of_knowledge_tracing_are_its_recurrence():
    training = m.make_training(m.make_encoder(), "dkt")
    training.cf_module.float()
    batch = m.make_batch("response")
    slots, width = batch.items.numel(), training.encoder.width
    recurrence = 3 * 2 * slots * 2 * 4 * width * 2 * width
    assert cf_flops(training, batch) >= 0.8 * recurrence
