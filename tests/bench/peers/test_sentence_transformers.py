"""The library sentence-transformers around our weights: exact, padded or packed, or refused.

That it is exact on every family, padded, is in tests/bench/test_family_exactness.py.
"""

import copy
import importlib.metadata
from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from bench.methods import Unavailable
from bench.peers import _library_model, sentence_transformers
from bench.peers._library_model import LibraryModel, why_padded
from bench.peers.sentence_transformers import SentenceTransformers
from bench.peers.sentence_transformers_plain import SentenceTransformersPlain
from gram_core.batch import every_slot
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.exactness import Float64Throughout, relative_errors
from gram_core.training import Optimization, Training
from tests.bench._encoder_folders import FAMILIES
from tests.bench.verify.test_family_exactness import prepared
from tests.gram_core import _models as m

missing = SentenceTransformers.requires()
needs_library = pytest.mark.skipif(missing is not None, reason=str(missing))
LOSSES = {"cached": SentenceTransformers, "plain": SentenceTransformersPlain}
TOLERANCE = 1e-10


def gradients(name, encoder, **settings):
    with Float64Throughout():
        return m.step_gradients(name, m.make_training(encoder), m.make_batch(), **settings)


@needs_library
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("pooling", m.POOLINGS)
def test_every_pooling_and_head_is_the_encoders(pooling, loss):
    """The library names poolings otherwise and lacks one; its dense layers hold our parameters."""
    encoder = m.make_encoder("roberta", pooling, with_head=True)
    expected = gradients("e2e", encoder)
    found = gradients(loss.name, encoder, chunk_tokens=20)
    assert any(name.startswith("encoder.head") for name in expected)
    assert max(relative_errors(found, expected).values()) <= TOLERANCE


def per_text(module, query, key, value, attention_mask, scaling=None, is_causal=None, cu_seq_lens_q=None, **_):
    """Attention within boundaries, text by text: what flash attention computes of packed rows [1, heads, T, width]."""
    assert attention_mask is None
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    sizes = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    causal = module.is_causal if is_causal is None else is_causal
    parts = zip(*(part.split(sizes, dim=2) for part in (query, key, value)), strict=True)
    attended = [
        torch.nn.functional.scaled_dot_product_attention(*part, scale=scaling, is_causal=causal) for part in parts
    ]
    return torch.cat(attended, 2).transpose(1, 2), None


@pytest.fixture
def packing(monkeypatch):
    """The library packs, by an attention that a processor can compute."""
    from sentence_transformers.sentence_transformer import modules
    from transformers import modeling_flash_attention_utils

    AttentionInterface.register("per_text", per_text)
    AttentionMaskInterface.register("per_text", lambda *_, **__: None)
    monkeypatch.setattr(_library_model, "ATTENTION", "per_text")
    monkeypatch.setattr(_library_model, "why_padded", lambda *_: None)
    monkeypatch.setattr(modules.Transformer, "_is_flash_attention_requested", lambda _: True)
    monkeypatch.setattr(
        modeling_flash_attention_utils, "lazy_import_flash_attention", lambda _: ((None, per_text), None)
    )


@needs_library
@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize(
    ("family", "loss"),
    [
        (family, list(LOSSES.values())[place % len(LOSSES)])
        for place, family in enumerate(FAMILIES)
        if family != "ibert"
    ],
)
def test_what_the_library_packs_is_exact_too(family, loss):
    """Positions that do not restart, or a mini-batch with the boundaries of another, would show."""
    encoder = copy.deepcopy(prepared(family, "whole"))
    if encoder.model.config.is_encoder_decoder or not encoder.model._supports_flash_attn:
        pytest.skip("the library does not pack for it")
    with Float64Throughout():
        batch = m.make_batch(users=3)  # CLIP refuses a row longer than its positions
        expected = m.step_gradients("e2e", m.make_training(encoder), batch)
        run = loss(m.make_training(copy.deepcopy(encoder)), m.settings_of(loss, chunk_tokens=20))
        if run.ran.why:
            pytest.skip(run.ran.why)
        found = m.step_gradients(loss.name, m.make_training(encoder), batch, chunk_tokens=20)
    assert run.ran.tier == "its own, packed"
    assert max(relative_errors(found, expected).values()) <= TOLERANCE


@needs_library
@pytest.mark.usefixtures("packing")
def test_packed_features_are_those_of_the_librarys_collator():
    """It makes them of lists, text by text, which nobody would want in a timed step."""
    for family in ("bert", "roberta"):
        encoder = m.make_encoder(family)
        model = LibraryModel(encoder, None)
        texts = m.make_table().texts(torch.tensor([3, 0, 7]))
        rows = [{"input_ids": part.tolist()} for part in texts.tokens.split(texts.lengths.tolist())]
        expected = dict(model.pipeline[0].data_collator(rows))
        expected.pop("labels", None)
        expected["position_ids"] = expected["position_ids"] + (2 if family == "roberta" else 0)
        found = model.features(texts)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name
            assert getattr(found[name], "dtype", None) == getattr(value, "dtype", None), name


@needs_library
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_model_sees_mini_batches_of_the_librarys_budget_and_they_are_counted(loss):
    """Padded to their own longest text, both times alike."""
    training = m.with_adamw(m.make_training(m.make_encoder(padding="max_length")))
    run = loss(training, m.settings_of(loss, chunk_tokens=20))
    seen = []
    table = training.encoder.model.get_input_embeddings()
    table.register_forward_pre_hook(lambda _, given: seen.append(given[0] != training.encoder.pad_token_id))
    batch = m.make_batch()
    run.step(batch)
    lengths = training.table.lengths[every_slot(batch).items]
    computed = int(run.training.encoder.computed_tokens(lengths).sum())
    if loss is SentenceTransformersPlain:
        assert [mask.shape[0] for mask in seen] == [len(lengths)]
        assert seen[0].numel() == computed
        return
    half = len(seen) // 2
    assert half > 3
    assert all(int(mask.sum()) <= 20 for mask in seen)
    assert all(torch.equal(*pair) for pair in zip(seen[:half], seen[half:], strict=True))
    assert sum(mask.numel() for mask in seen[:half]) == computed > int(lengths.sum())


@needs_library
def test_why_texts_are_padded_is_said_where_a_reader_looks():
    run = SentenceTransformers(m.make_training(m.make_encoder("bert")))
    assert run.ran == ("its own, padded", "flash attention needs a GPU")
    (told,) = [each.sentence for each in run.handicaps if each.only == "everywhere"]
    assert told == (
        "it encodes as the library does, on every engine, with texts padded, since flash attention needs a GPU; "
        "gradient_cache is the same with the engine's encoder"
    )
    plain = SentenceTransformersPlain(m.make_training(m.make_encoder("mpnet")))
    assert plain.ran.why == "transformers has no flash attention for the model type mpnet"
    assert any("e2e is the same" in each.sentence for each in plain.handicaps)


@pytest.mark.parametrize(
    ("dtype", "installed", "expected"),
    [
        (None, False, "flash attention computes in bf16 and float16, not in float32"),
        (torch.bfloat16, False, "the package flash-attn is not installed"),
        (torch.bfloat16, True, None),
    ],
)
def test_on_a_gpu_precision_and_installation_decide(monkeypatch, dtype, installed, expected):
    model = SimpleNamespace(
        dtype=torch.float32,
        device=torch.device("cuda"),
        config=SimpleNamespace(model_type="bert"),
        is_backend_compatible=lambda: True,
        _supports_flash_attn=True,
    )
    monkeypatch.setattr(_library_model.importlib.util, "find_spec", lambda _: object() if installed else None)
    encoder = m.make_encoder("bert")
    assert why_padded(SimpleNamespace(model=model, pooling=encoder.pooling), dtype) == expected


@needs_library
def test_what_it_cannot_run_is_refused_in_one_sentence():
    spy = m.SpyEncoder.fresh()
    training = Training(m.make_table(), spy, m.make_cf_module("nrms", spy.width), Optimization(None, None))
    with pytest.raises(Unavailable, match=r"^sentence_transformers needs a Hugging Face model, .* a SpyEncoder$"):
        SentenceTransformers(training)

    class Doubled(HuggingFaceEncoder):
        def finish(self, pooled):
            return 2 * super().finish(pooled)

    given = m.make_encoder()
    doubled = Doubled(given.model, pad_token_id=0, text_length=m.TEXT_LENGTH)
    with pytest.raises(Unavailable, match=r"does not leave what the encoder, a bert, leaves: its encodings differ"):
        SentenceTransformers(m.make_training(doubled))


@needs_library
def test_whoever_trains_goes_on_training():
    """The library puts what it loads into evaluation mode, in which dropout would be silent."""
    encoder = m.make_encoder(dropout=0.3)
    encoder.model.get_input_embeddings().eval()
    before = [part.training for part in encoder.modules()]
    SentenceTransformers(m.make_training(encoder))
    assert [part.training for part in encoder.modules()] == before


@pytest.mark.parametrize("installed", [None, "5.1.0"])
def test_a_missing_or_older_library_is_said_with_the_command_that_mends_it(monkeypatch, installed):
    def version(name):
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(sentence_transformers.importlib.metadata, "version", version)
    assert "pip install 'sentence-transformers>=6'" in SentenceTransformers.requires()
