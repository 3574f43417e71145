"""Items that are pictures, or several things at once: every method trains on them as on texts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, ViTConfig, ViTModel

from bench.methods import Unavailable
from gram_core import IndexedItems
from gram_core.encoders.pictures import PictureEncoder
from gram_core.engines import compiled, eager, fast
from gram_core.engines._tiers import AS_GIVEN, FallBack
from gram_core.evaluation import encode_all
from gram_core.exactness import relative_errors
from tests.gram_core import _models as m
from tests.gram_core.test_exactness import assert_alive, assert_same

FAMILIES = {"vit": ("cls", "mean", "attention"), "siglip_vision_model": ("head", "mean")}
BOTH = [(family, pooling) for family, poolings in FAMILIES.items() for pooling in poolings]
SIZE, PATCHES = 16, 4
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
families = pytest.mark.parametrize(("family", "pooling"), BOTH)


pytestmark = pytest.mark.usefixtures("float64")


def model_of(family):
    torch.manual_seed(1)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    model = AutoModel.from_config(AutoConfig.for_model(family, image_size=SIZE, patch_size=8, **sizes)).double()
    with torch.no_grad():  # so that pictures differ much, and no gradient is next to nothing
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def encoder_of(family="vit", pooling="cls"):
    return PictureEncoder(model_of(family), mean=MEAN, std=STD, pooling=pooling).train()


def pixels(items=m.ITEMS):
    return np.random.default_rng(2).integers(0, 256, (items, 3, SIZE, SIZE), dtype=np.uint8)


def training_on(encoder, items=None, **options):
    return m.make_training(encoder, table=items or IndexedItems(pixels(), tokens=PATCHES + 1), **options)


def of_texts_alone(method, refusal):
    """A peer may take a language model's texts only, if it says so."""
    assert m.METHODS[method].__module__.startswith("bench.peers")
    assert "needs a Hugging Face model" in str(refusal)


@families
def test_every_exact_method_leaves_end_to_end_gradients(family, pooling):
    training, batch = training_on(encoder_of(family, pooling)), m.make_batch()
    expected = m.step_gradients("e2e", training, batch)
    assert len(expected) > 20
    assert {name.removeprefix("encoder.") for name in expected if name.startswith("encoder.")} == {
        name for name, _ in training.encoder.named_parameters()
    }
    for method in m.EXACT:
        try:
            assert_same(m.step_gradients(method, training, batch), expected)
        except Unavailable as refusal:
            of_texts_alone(method, refusal)
            continue
        small = dict(chunk_tokens=2 * (PATCHES + 1), kept_tokens=4 * (PATCHES + 1))
        assert_same(m.step_gradients(method, training, batch, **small), expected)
    assert_same(m.step_gradients("multi_step", training, batch, accumulation_steps=1), expected)


def test_gradients_exist_and_depend_on_each_picture():
    encoder, batch = encoder_of("vit", "mean"), m.make_batch()
    expected = m.step_gradients("single_step", training_on(encoder), batch)
    assert_alive({name: value for name, value in expected.items() if "k_proj.bias" not in name})
    other = pixels()
    other[int(batch.items[batch.mask][0]), 0, 0, 0] ^= 128
    found = m.step_gradients("single_step", training_on(encoder, IndexedItems(other, PATCHES + 1)), batch)
    assert max(relative_errors(found, expected).values()) > 1e-6


@pytest.mark.parametrize("method", m.TRAINING_THE_ENCODER)
@pytest.mark.parametrize("engine", [fast, compiled])
def test_the_fast_engine_trains_pictures_as_eager_does_and_says_how(method, engine):
    batch, encoders = m.make_batch(), [encoder_of(), encoder_of()]
    for encoder, chosen in zip(encoders, (eager, engine), strict=True):
        torch.manual_seed(0)
        training = m.with_adamw(training_on(encoder))
        settings = m.settings_of(m.METHODS[method], accumulation_steps=1)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                built = chosen.build(m.METHODS[method], training, settings)
            except Unavailable as refusal:
                of_texts_alone(method, refusal)
                return
        if chosen is not eager:
            reason = built.tier.why_no_faster
            assert [reason in str(each.message) for each in told if each.category is FallBack] == [True] * bool(reason)
            assert reason or built.tier.tier != AS_GIVEN
        built.step(batch)
        built.finish()
    for one, other in zip(encoders[0].parameters(), encoders[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@families
def test_an_encoding_is_of_its_own_picture_alone(family, pooling):
    encoder, given = encoder_of(family, pooling), torch.from_numpy(pixels(6))
    with torch.no_grad():
        together = encoder(given)
        alone = torch.cat([encoder(given[row : row + 1]) for row in range(6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-11)
    assert float(torch.pdist(together).min()) > 1e-3
    assert encoder.width == together.shape[1] == 32


@pytest.mark.parametrize(("family", "pooling"), [("vit", "cls"), ("siglip_vision_model", "head")])
def test_pixels_are_normalised_as_the_model_is_published(family, pooling):
    """Against the model itself, given numbers between 0 and 1 less the mean, over the deviation."""
    encoder, given = encoder_of(family, pooling), torch.from_numpy(pixels(3))
    mean, std = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (MEAN, STD))
    output = model_of(family)(pixel_values=(given.double() / 255 - mean) / std)
    expected = output.pooler_output if pooling == "head" else output.last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(given), expected, rtol=0, atol=1e-12)


def test_a_grey_picture_has_its_one_channel_in_each_of_the_models():
    encoder, grey = encoder_of(), torch.from_numpy(pixels(3)[:, :1])
    torch.testing.assert_close(encoder(grey), encoder(grey.expand(-1, 3, -1, -1)), rtol=0, atol=0)


@families
def test_no_parameter_is_left_that_nothing_trains(family, pooling):
    """A pooler or head that another pooling replaces would be moved by weight decay alone."""
    encoder = encoder_of(family, pooling)
    encoder(torch.from_numpy(pixels(2))).square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    assert any("head" in name for name, _ in encoder.named_parameters()) == (pooling == "head")


@families
def test_no_picture_gives_no_encoding_and_still_a_gradient(family, pooling):
    """A process that trains with others and has no items takes part in the backward pass."""
    encoder = encoder_of(family, pooling)
    found = encoder(torch.from_numpy(pixels(2))[:0])
    assert found.shape == (0, 32)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_a_head_that_the_model_lacks_is_an_error():
    model = ViTModel(ViTConfig(image_size=16, patch_size=8, hidden_size=32, num_attention_heads=2), False)
    with pytest.raises(ValueError, match="a vit has no head of its own"):
        PictureEncoder(model, mean=MEAN, std=STD, pooling="head")


class TextAndPicture(nn.Module):
    """A bag of words beside a picture."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.words, self.picture = nn.EmbeddingBag(20, 16).double(), encoder_of()
        self.width = 16 + self.picture.width

    def forward(self, content):
        return torch.cat([self.words(content["words"]), self.picture(content["pixels"])], -1)

    def computed_tokens(self, lengths):
        return lengths


@pytest.mark.parametrize("method", m.TRAINING_THE_ENCODER)
def test_items_of_several_modalities_train_by_every_method(method, tmp_path):
    """Of a mapping of sources, one of them memory-mapped, an encoder gets a mapping."""
    np.save(tmp_path / "pixels.npy", pixels())
    words = torch.randint(0, 20, (m.ITEMS, 3), generator=torch.Generator().manual_seed(4))
    source = {"words": words, "pixels": np.load(tmp_path / "pixels.npy", mmap_mode="r")}
    training, batch = training_on(TextAndPicture(), IndexedItems(source, PATCHES + 4)), m.make_batch()
    expected = m.step_gradients("e2e", training, batch)
    assert len(expected) > 20
    try:
        found = m.step_gradients(method, training, batch, accumulation_steps=1, fresh_share=1.0)
    except Unavailable as refusal:
        of_texts_alone(method, refusal)
        return
    if m.METHODS[method].exactness == "exact" or method in ("multi_step", "pseudo_target_regression"):
        assert_same(found, expected)
    else:
        assert found.keys() == expected.keys()


def test_budgets_count_tokens_of_items():
    """Chunks hold as many pictures as a budget has room for."""
    seen = []
    encoder = encoder_of()
    encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    encode_all(training_on(encoder), torch.arange(7), batch_tokens=3 * (PATCHES + 1))
    assert sum(seen) == 7
    assert max(seen) == 3


@pytest.mark.parametrize("tokens", [0, torch.ones(3), torch.ones(2, m.ITEMS)])
def test_tokens_that_do_not_fit_the_items_are_an_error(tokens):
    with pytest.raises(ValueError, match=f"tokens must be 1 at least, for each of {m.ITEMS} items"):
        IndexedItems(pixels(), tokens)


def test_only_the_rows_of_a_call_are_read():
    asked = []

    class Rows:
        def __len__(self):
            return 1_000_000

        def __getitem__(self, row):
            asked.append(row)
            return np.full(2, row)

    assert IndexedItems(Rows(), 1).take(torch.tensor([999_999, 3, 3])).tolist() == [[999_999] * 2, [3] * 2, [3] * 2]
    assert asked == [999_999, 3, 3]
    with pytest.raises(ValueError, match="one item at least"):
        IndexedItems([], 1)
