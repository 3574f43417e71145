"""Encoders: what every source of them promises to the harness, over real and random weights."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING

from bench import registry
from bench.encoders import _base
from bench.encoders._encoding import encoding_of
from bench.encoders.shape import SHAPES

CPU = torch.device("cpu")
FAMILIES = tuple(name for name, shape in SHAPES.items() if shape.family in CONFIG_MAPPING and shape.picture is None)
"""Of texts; those of pictures are in test_pictures.py."""


def load(encoder, layers=1, dtype=torch.float32, seed=0, dropout="off"):
    return _base.load(encoder, _base.Loading(CPU, dtype, layers, seed, dropout))


def states(loaded, ids=((0, 7, 8, 9),)):
    ids = torch.tensor(ids) + 300
    return loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


@pytest.fixture
def narrow(monkeypatch):
    """Shapes at width 32, as deep as they are: width is no part of what a family gets wrong."""
    for name, shape in SHAPES.items():
        few = {key: 1 if key == "num_key_value_heads" else 16 for key in shape.options if "head" in key}
        monkeypatch.setitem(SHAPES, name, replace(shape, width=32, heads=2, inner=64, options={**shape.options, **few}))


@pytest.fixture
def folder(tmp_path):
    """A tiny encoder as `save_pretrained` leaves it, without tokenizer."""
    load("shape:tiny", layers=None).model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("shape", FAMILIES)
def test_every_parameter_of_a_shape_gets_a_gradient(shape, narrow):
    """A pooler or a cut layer that stayed would be optimizer memory that no method trains."""
    loaded = load(f"shape:{shape}", dtype=torch.float64)
    assert loaded.model.dtype == torch.float64
    states(loaded).square().sum().backward()
    assert [name for name, parameter in loaded.model.named_parameters() if parameter.grad is None] == []
    assert loaded.weights == "random"
    assert "random weights" in loaded.description


@pytest.mark.parametrize("shape", FAMILIES)
def test_dropout_off_is_off_in_training_mode(shape, narrow):
    loaded = load(f"shape:{shape}")
    loaded.model.train()
    assert torch.equal(states(loaded), states(loaded))


@pytest.mark.parametrize("shape", FAMILIES)
def test_a_shape_is_pooled_as_its_kind_asks_for(shape, narrow):
    """The last token where, and only where, a token's state is blind to later ones."""
    loaded = load(f"shape:{shape}")
    assert loaded.causal == (SHAPES[shape].pooling == "last") == (encoding_of(loaded, "auto", shape).pooling == "last")
    assert 512 <= loaded.longest_text <= 32_768


def test_dropout_shared_keeps_the_configurations_own():
    loaded = load("shape:tiny", dropout="shared")
    loaded.model.train()
    assert not torch.equal(states(loaded), states(loaded))
    assert load("shape:tiny", dropout=None).model.config.hidden_dropout_prob == 0.1
    assert load("shape:tiny", dropout=0.0).model.config.hidden_dropout_prob == 0.0
    assert load("shape:tiny", dropout=0.3).model.config.attention_probs_dropout_prob == 0.3


def test_modernbert_keeps_the_layer_kinds_of_its_first_layers(narrow):
    loaded = load("shape:modernbert-base", layers=4)
    assert loaded.model.config.layer_types == [
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ]
    assert len(loaded.model.layers) == 4
    assert loaded.pad_token_id == 50_283
    assert loaded.closing_token_id == 50_282


def test_random_weights_come_from_the_seed_and_disturb_no_other_random_state():
    state = torch.get_rng_state()
    first, again, other = (load("shape:tiny", seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("minilm", 22_565_376),
        ("tinybert-6-768", 66_364_416),
        ("distilbert", 66_362_880),
        ("bert-base", 108_891_648),
        ("mpnet-base", 108_895_872),
        ("roberta-base", 124_055_040),
        ("modernbert-base", 149_014_272),
        ("modernbert-large", 394_781_696),
        ("qwen3-embedding-0.6b", 595_776_512),
        ("embeddinggemma-300m", 302_863_104),
        ("eurobert-210m", 211_766_016),
        ("tinyllama-1.1b", 1_034_512_384),
    ],
)
def test_shapes_have_the_published_number_of_parameters_less_the_pooler(shape, parameters):
    loaded = _base.load(f"shape:{shape}", _base.Loading(torch.device("meta"), torch.float32, dropout="off"))
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == parameters


def test_layers_beyond_the_encoders_are_an_error():
    with pytest.raises(ValueError, match="has 2 layers; layers = 3 must be between 1 and 2"):
        load("shape:tiny", layers=3)


def test_minilm_has_its_real_weights_and_its_first_layers(asset):
    folder = asset("minilm")
    loaded = load("minilm", layers=2)
    weights = load_file(folder / "model.safetensors")
    found = loaded.model.state_dict()
    assert len(loaded.model.encoder.layer) == 2
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"):
        assert torch.equal(found[name], weights[name])
    assert loaded.weights == "real"
    assert "first 2 of 6 layers" in loaded.description
    assert "stored in float32" in loaded.description
    assert (loaded.pad_token_id, loaded.opening_token_id, loaded.closing_token_id) == (0, 101, 102)
    assert loaded.special_token_ids == {0, 100, 101, 102, 103}
    assert loaded.longest_text == 512


def test_the_tokenizer_neither_cuts_nor_pads(asset):
    """MiniLM's file asks for both at 128 tokens, which would cut every longer text_length short."""
    asset("minilm")
    tokenizer = load("minilm").tokenizer
    short, long = tokenizer.encode(["a film", "word " * 600])
    assert short == [101, 1037, 2143, 102]
    assert len(long) == 602


def test_minilms_encodings_put_like_texts_together(asset):
    """The real weights, the tokenizer and the loading fit each other: meaning comes out."""
    asset("minilm")
    loaded = load("minilm", layers=None)
    texts = ["a space war film", "a movie about battles among the stars", "a recipe for apple cake"]
    encodings = []
    for ids in loaded.tokenizer.encode(texts):
        row = torch.tensor([ids])
        hidden = loaded.model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state
        encodings.append(torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0])
    war, stars, cake = encodings
    assert war @ stars > (war @ cake) + 0.3


def test_a_shape_with_berts_vocabulary_borrows_minilms_tokenizer(asset):
    asset("minilm")
    assert load("shape:minilm").tokenizer.encode(["a film"]) == [[101, 1037, 2143, 102]]
    assert load("shape:tiny").tokenizer is None


def test_a_folder_is_an_encoder(folder):
    loaded = load(f"path:{folder}", layers=None)
    original = load("shape:tiny", layers=None)
    assert torch.equal(states(loaded), states(original))
    assert loaded.weights == "real"
    assert loaded.tokenizer is None
    assert "stored in float32" in loaded.description


def test_weights_stored_in_float16_are_loaded_as_asked_and_said_so(folder):
    """transformers keeps the stored type where none is asked for: a float32 benchmark would train in float16."""
    weights = load_file(folder / "model.safetensors")
    save_file({key: value.half() for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    loaded = load(f"path:{folder}", layers=None)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert "stored in float16" in loaded.description


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("shape:bert-bas", r"did you mean 'bert-base'\?"),
        ("shape", "names no shape; .*tinybert-6-768"),
        ("minilm:large", 'minilm takes no argument, write "minilm"'),
        ("mpnet:x", "takes no argument"),
        ("hub", "must name a model of the hub"),
        ("hub:../x y", "must name a model of the hub"),
        ("path", 'must name a folder: "path:FOLDER"'),
        ("path:/no/such/folder", "there is no folder /no/such/folder"),
        ("minlm", "did you mean 'minilm'"),
    ],
)
def test_a_wrong_encoder_is_one_clear_sentence(encoder, message):
    with pytest.raises(ValueError, match=message):
        _base.check(encoder)


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        _base.check(f"path:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="could not be loaded"):
        load(f"path:{tmp_path}", layers=None)


def test_an_unreachable_hub_is_one_clear_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="`hf download nobody/nothing --local-dir FOLDER`") as raised:
        load("hub:nobody/nothing", layers=None)
    assert "\n" not in str(raised.value)


def test_every_source_has_the_parts_of_one():
    for name in registry.names("bench.encoders"):
        module = registry.load("bench.encoders", name)
        assert callable(module.check)
        assert callable(module.load)
        assert isinstance(module.ASSETS, tuple)


def test_checking_an_encoder_does_not_import_torch():
    """Configuration is checked before any work: it must be instant."""
    code = (
        "import sys\nfrom bench.encoders import _base\n"
        "for name in ('minilm', 'mpnet', 'shape:tiny', 'hub:a/b', 'path:/'):\n"
        "    try:\n        _base.check(name)\n    except ValueError:\n        pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
