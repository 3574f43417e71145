"""Every family of text encoders is trained exactly: whole, frozen in part, checkpointed, by adapters."""

import copy
from functools import cache

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from bench.peers.sentence_transformers import SentenceTransformers
from bench.peers.sentence_transformers_plain import SentenceTransformersPlain
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.engines import eager, fast
from gram_core.exactness import Float64Throughout, GradientRecorder, relative_errors
from gram_core.training import Optimization
from tests.bench._encoder_folders import FAMILIES, model_of
from tests.gram_core import _models as m

WAYS = ("whole", "frozen", "checkpointed", "adapters")
USUAL = {"bert", "distilbert", "roberta", "mpnet", "modernbert", "qwen3", "llama", "gemma3_text"}
"""Families that have passes of their own, are never to be refused, and are packed where the engine packs."""
TRAINED = [
    (family, way)
    for row, family in enumerate(FAMILIES)
    for way in (WAYS if family in USUAL else (WAYS[0], WAYS[1 + row % 3]))
]
"""The usual families in every way; of the others, which run through the same code, each whole and in one way more."""


@cache
def prepared(family, way):
    """An encoder to copy: a family's, in float64 and without dropout, to be trained in this way."""
    model = model_of(family).double()
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    if getattr(model, "pooler", None) is not None:
        model.register_module("pooler", None)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout", "attn_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    if way == "frozen":
        model.get_input_embeddings().requires_grad_(False)
    elif way == "checkpointed":
        if not model.supports_gradient_checkpointing:
            pytest.skip("this family has no checkpointing")
        model.gradient_checkpointing_enable()
    elif way == "adapters":
        peft = pytest.importorskip("peft")
        targets = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear | Conv1D)]
        if not targets:
            pytest.skip("this family has no plain linears")
        config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        model = peft.get_peft_model(model, config).get_base_model().double()
    return HuggingFaceEncoder(
        model, pad_token_id=0, text_length=m.TEXT_LENGTH, pooling="auto", padding="longest"
    ).train()


def gradients_of(encoder, method, engine):
    training = m.make_training(copy.deepcopy(encoder))
    recorders = GradientRecorder(training.encoder), GradientRecorder(training.cf_module)
    training.optimization = Optimization(*recorders)
    engine.build(m.METHODS[method], training, None).step(m.make_batch())
    return {f"{part}.{name}": value for part, one in enumerate(recorders) for name, value in one.last.items()}


def others(family, way):
    """What is to leave end-to-end training's gradients: `single_step` by the fast engine, and one of the others.

    Which one follows from the place, so that a usual family meets all of them, and so does a way.
    """
    found = [("single_step", eager), ("e2e", fast)]
    if SentenceTransformers.requires() is None:
        engines = (eager, fast) if list(FAMILIES).index(family) % 2 else (fast, eager)
        found += zip((SentenceTransformers.name, SentenceTransformersPlain.name), engines, strict=True)
    return [("single_step", fast), found[(list(FAMILIES).index(family) + WAYS.index(way)) % len(found)]]


@pytest.mark.parametrize(("family", "way"), TRAINED)
def test_every_family_learns_what_end_to_end_training_learns(family, way):
    """Decoders pooled by the last token, rotary positions, adapters, frozen tables."""
    with Float64Throughout():
        encoder = prepared(family, way)
        expected = gradients_of(encoder, "e2e", eager)
        trained = {f"0.{name}" for name, parameter in encoder.named_parameters() if parameter.requires_grad}
        found = {name for name in expected if name.startswith("0.")}
        assert found <= trained
        assert len(found) >= len(trained) / 2
        for method, engine in others(family, way):
            errors = relative_errors(gradients_of(encoder, method, engine), expected)
            assert max(errors.values()) <= 1e-10, (method, engine.__name__)
