"""Peers that run forward twice: the same random draws, bounded chunks."""

import pytest
import torch

from bench.peers.activation_checkpointing import ActivationCheckpointing, checkpointed
from bench.peers.gradient_cache import GradientCache
from bench.peers.sentence_transformers import SentenceTransformers
from gram_core.encoders import _packed_pass
from gram_core.encoders.packed import PackedEncoder
from gram_core.engines import fast
from gram_core.exactness import Float64Throughout, parameters, relative_errors
from gram_core.methods.e2e import E2E
from gram_core.training import Optimization, Training
from tests.gram_core import _models as m

needs_library = pytest.mark.skipif(
    SentenceTransformers.requires() is not None, reason=str(SentenceTransformers.requires())
)
RECOMPUTING = [
    ("gradient_cache", "e2e"),
    ("gradient_cache_unique", "e2e_unique"),
    ("activation_checkpointing", "e2e"),
    pytest.param("sentence_transformers", "e2e", marks=needs_library),
    pytest.param("sentence_transformers_plain", "e2e", marks=needs_library),
]


@pytest.mark.parametrize(("method", "reference"), RECOMPUTING)
def test_the_second_forward_pass_draws_the_masks_of_the_first(method, reference):
    """With other masks the gradient would belong to another network."""
    batch = m.make_batch()

    def gradients(name):
        return m.step_gradients(name, m.make_training(m.make_encoder(dropout=0.3)), batch, seed=7)

    expected = gradients(reference)
    with Float64Throughout():
        found = gradients(method)
    assert max(relative_errors(found, expected).values()) <= 1e-10
    without = m.step_gradients(reference, m.make_training(), batch, seed=7)
    assert max(relative_errors(without, expected).values()) > 1e-2, "no mask was drawn"


def test_the_encoder_never_sees_more_than_a_chunk():
    """In tokens computed, padding included."""
    spy = m.SpyEncoder.fresh()
    cf_module = m.make_cf_module("nrms", spy.width)
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (spy, cf_module)]
    training = Training(m.make_table(), spy, cf_module, Optimization(*optimizers))
    GradientCache(training, GradientCache.Settings(chunk_tokens=20)).step(m.make_batch())
    sizes = [sum(len(text) for text in texts) for texts in spy.seen]
    assert max(sizes) <= 20
    assert len(sizes) > 6
    assert spy.seen[: len(sizes) // 2] == spy.seen[len(sizes) // 2 :], "both passes cut alike, in the same order"


def test_gradient_cache_holds_no_graph_between_its_passes():
    """Memory of one chunk is what it is for."""
    training = m.make_training()
    graphs = []
    encode = training.encode

    def watched(items):
        encodings = encode(items)
        graphs.append(encodings.requires_grad)
        return encodings

    training.encode = watched
    GradientCache(training, GradientCache.Settings(chunk_tokens=30)).step(m.make_batch())
    half = len(graphs) // 2
    assert half > 1
    assert graphs == [False] * half + [True] * half


@pytest.mark.parametrize("family", m.FAMILIES)
def test_each_layer_runs_twice_and_keeps_only_what_it_was_given(family):
    """Found in every family's own structure; saved bytes shrink to a layer's input and what lies outside layers."""
    batch = m.make_batch(users=8)
    saved = {}
    for name, wrap in (("e2e", lambda training: m.METHODS["e2e"](training)), ("peer", ActivationCheckpointing)):
        run = wrap(m.make_training(m.make_encoder(family)))
        layers = next(part for part in run.training.encoder.modules() if isinstance(part, torch.nn.ModuleList))
        calls = []
        projection = next(part for part in layers[0].modules() if isinstance(part, torch.nn.Linear))
        projection.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        sizes = []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            encodings = run.training.encode(batch.items[batch.mask])
        first = len(calls)
        encodings.sum().backward()
        saved[name] = sum(sizes)
        assert (first, len(calls)) == ((1, 1) if name == "e2e" else (1, 2))
    assert saved["peer"] < 0.5 * saved["e2e"]


def test_checkpointing_shares_parameters_and_leaves_the_given_encoder_alone():
    encoder = m.make_encoder()
    shared = checkpointed(encoder)
    assert [id(p) for p in shared.parameters()] == [id(p) for p in encoder.parameters()]
    layer = next(part for part in encoder.modules() if isinstance(part, torch.nn.ModuleList))[0]
    assert "forward" not in vars(layer)
    with pytest.raises(ValueError, match="no list of layers in SpyEncoder"):
        checkpointed(m.SpyEncoder.fresh())


def test_checkpointing_runs_packed_layers_twice_and_trains_alike(monkeypatch):
    calls = []
    forward = _packed_pass._layer_forward
    monkeypatch.setattr(_packed_pass, "_layer_forward", lambda *given: calls.append(1) or forward(*given))
    found = {}
    for method, times in ((E2E, 1), (ActivationCheckpointing, 2)):
        calls.clear()
        training = m.with_adamw(m.make_training())
        given = PackedEncoder(training.encoder)
        run = fast.build_packed(method, training, None, given)
        run.step(m.make_batch())
        assert len(calls) == times * len(given.weights.layers)
        assert not given.shape.recomputes, "the given encoder is another's as well"
        found[method] = parameters({"encoder": training.encoder})
    assert max(relative_errors(found[ActivationCheckpointing], found[E2E]).values()) <= 1e-12
