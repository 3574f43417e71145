"""The Hugging Face encoder: an encoding depends on its own text alone, whatever it is padded and batched with."""

import pytest
import torch
from torch import nn

from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.pooling import Dense, LastPooling, MeanPooling, pooling_module
from tests.gram_core import _models as m

families = pytest.mark.parametrize("family", m.FAMILIES)
poolings = pytest.mark.parametrize("pooling", m.POOLINGS)


@pytest.fixture(autouse=True)
def _float64(float64):
    with torch.no_grad():
        yield


@families
@poolings
def test_padding_and_neighbours_do_not_change_an_encoding(family, pooling):
    """Each text alone and unpadded, against all of them padded to text_length and to the longest."""
    texts = m.make_table().texts(torch.arange(8))
    alone = m.make_encoder(family, pooling, "longest")
    expected = torch.cat([alone(texts.slice(i, i + 1)) for i in range(8)])
    for padding in m.PADDINGS:
        found = m.make_encoder(family, pooling, padding)(texts)
        assert found.shape == (8, alone.width)
        assert float((found - expected).abs().max()) <= 1e-11
    assert float(torch.pdist(expected).min()) > 1e-3


@families
def test_pooling_reads_the_last_hidden_states(family):
    """Against states of one unpadded text, taken from the model itself."""
    text = m.make_table().texts(torch.tensor([4]))
    states = m.make_encoder(family).model(input_ids=text.tokens[None]).last_hidden_state[0]
    assert torch.allclose(m.make_encoder(family, "mean")(text)[0], states.mean(0), atol=1e-12)
    assert torch.allclose(m.make_encoder(family, "cls")(text)[0], states[0], atol=1e-12)


@poolings
def test_a_head_follows_the_pooling(pooling):
    """Projection, residual and unit length, by hand."""
    texts = m.make_table().texts(torch.arange(8))
    encoder, plain = m.make_encoder(pooling=pooling, with_head=True), m.make_encoder(pooling=pooling)
    if pooling == "attention":
        plain.pooling.load_state_dict(encoder.pooling.state_dict())
    dense = encoder.head[0]
    pooled = plain(texts)
    summed = torch.tanh(pooled @ dense.linear.weight.T + dense.linear.bias) + pooled @ dense.residual.weight.T
    found = encoder(texts)
    assert encoder.width == found.shape[1] == 16
    assert torch.allclose(found, summed / summed.norm(dim=1, keepdim=True), atol=1e-12)


@families
def test_auto_takes_the_last_token_of_a_causal_model(family):
    assert type(m.make_encoder(family, "auto").pooling) is MeanPooling
    if family == "bert":
        model = m.make_encoder().model
        model.config.is_decoder = True
        for layer in model.encoder.layer:
            layer.attention.self.is_causal = layer.attention.self.is_decoder = True
        assert type(HuggingFaceEncoder(model, pad_token_id=0, text_length=8, pooling="auto").pooling) is LastPooling


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_batch_normalisation_is_refused(norm):
    """A text's encoding would change with its neighbours, so that no deduplication is exact."""
    model = m.make_encoder().model
    model.encoder.layer[1].output.LayerNorm = norm(32)
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.LayerNorm, a .*BatchNorm.*put a LayerNorm"):
        HuggingFaceEncoder(model, pad_token_id=0, text_length=8)
    head = nn.Sequential(Dense(32, 8, activation=norm(8)))
    with pytest.raises(ValueError, match="head normalises by its batch"):
        HuggingFaceEncoder(m.make_encoder().model, pad_token_id=0, text_length=8, head=head)


def test_computed_tokens_count_padding():
    lengths = torch.tensor([2, 5, 3])
    assert m.make_encoder(padding="max_length").computed_tokens(lengths).tolist() == [m.TEXT_LENGTH] * 3
    assert m.make_encoder(padding="longest").computed_tokens(lengths).tolist() == [5] * 3
    assert m.make_encoder(padding="longest").computed_tokens(lengths[:0]).tolist() == []


def test_a_text_that_is_too_long_is_refused():
    table = m.make_table()
    encoder = HuggingFaceEncoder(m.make_encoder().model, pad_token_id=0, text_length=2)
    with pytest.raises(ValueError, match="where text_length is 2; truncate the table"):
        encoder(table.texts(torch.arange(len(table))))


def test_an_unknown_pooling_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'median' is none of mean, cls, last, max, attention"):
        pooling_module("median", 8)
