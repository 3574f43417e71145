"""Folders that people bring as encoders: used as they say, or refused in one sentence before anything is measured."""

import json
from contextlib import nullcontext

import pytest
import torch
from transformers import (
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen3ForCausalLM,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
)
from typer.testing import CliRunner

from bench.cli import app
from bench.encoders import _base
from bench.encoders._encoding import encoding_of
from gram_core.exactness import Float64Throughout
from tests.bench._encoder_folders import (
    CAUSAL,
    FAMILIES,
    ROWS,
    TEXTS,
    VOCABULARY,
    edit,
    encoder_of,
    load,
    model_of,
    reweigh,
    save,
    states_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """A family, its folder, which is only to be read, and what was saved there."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, save(folder, request.param)


def test_every_family_is_loaded_with_its_weights_and_its_kind_of_pooling(saved):
    family, folder, original = saved
    if original.config.is_encoder_decoder:
        original = original.get_encoder()
    loaded = load(folder)
    assert loaded.causal == (family in CAUSAL)
    encoder, texts = encoder_of(folder)
    with torch.no_grad():
        found = encoder(texts)
    for number, ids in enumerate(texts.tokens.split(texts.lengths.tolist())):
        states = states_of(original, ids.tolist())
        expected = states[-1] if family in CAUSAL else states.mean(0)
        assert torch.allclose(found[number], expected, atol=1e-5)
    described = encoding_of(loaded, "auto", "x").description
    assert described.startswith("last token" if family in CAUSAL else "mean of all tokens")


def test_every_family_is_loaded_in_float64_as_verify_does(saved):
    _, folder, _ = saved
    with Float64Throughout(), torch.no_grad():
        encoder, texts = encoder_of(folder, dtype=torch.float64)
        assert encoder(texts).dtype == torch.float64
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float64}
    loaded = load(folder)
    assert max(loaded.special_token_ids, default=0) < loaded.vocab_size


def test_the_longest_text_fits_and_one_token_more_does_not(saved):
    """Families that count positions from behind the padding id have room for fewer tokens than rows."""
    loaded = load(saved[1])
    if loaded.longest_text > 1000:
        return  # no table of positions
    text = [5 + n % 7 for n in range(loaded.longest_text)]
    assert torch.isfinite(states_of(loaded.model, text)).all()
    if any("position" in name or name == "wpe.weight" for name, _ in loaded.model.named_parameters()):
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            states_of(loaded.model, [*text, 5])


def test_models_with_heads_are_loaded_without_them(tmp_path):
    for number, (head, family) in enumerate(((BertForMaskedLM, "bert"), (Qwen3ForCausalLM, "qwen3"))):
        folder = tmp_path / str(number)
        whole = head(model_of(family).config)
        whole.save_pretrained(folder)
        loaded = load(folder)
        inner = getattr(whole, whole.base_model_prefix)
        assert torch.allclose(states_of(loaded.model, [5, 9, 7]), states_of(inner.eval(), [5, 9, 7]), atol=1e-6)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("widened", [False, True])
def test_pickled_weights_are_read_as_tensors(tmp_path, shards, widened):
    """In float64 throughout too, as verify loads them."""
    model = save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = model.state_dict()
    names = sorted(state)
    parts = [f"pytorch_model-{n}.bin" for n in range(shards)] if shards > 1 else ["pytorch_model.bin"]
    where = {name: parts[n % shards] for n, name in enumerate(names)}
    for part in parts:
        torch.save({name: state[name] for name in names if where[name] == part}, tmp_path / part)
    if shards > 1:
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    with Float64Throughout() if widened else nullcontext():
        loaded = load(tmp_path, torch.float64 if widened else torch.float32)
    assert torch.allclose(states_of(loaded.model, [5, 9]).float(), states_of(model, [5, 9]), atol=1e-6)


def test_sharded_weights_are_a_model(tmp_path):
    model = model_of("bert")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert torch.equal(states_of(load(tmp_path).model, [5, 9]), states_of(model, [5, 9]))


def test_a_model_in_a_subfolder_is_found(tmp_path):
    model = save(tmp_path / "0_Transformer")
    assert torch.equal(states_of(load(tmp_path).model, [5, 9]), states_of(model, [5, 9]))
    save(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match=r"several models \(0_Transformer, checkpoint-2\); name the one"):
        _base.check(f"path:{tmp_path}")


def test_the_encoder_of_an_encoder_decoder_runs_alone(tmp_path):
    for family in ("t5", "bart"):
        whole = save(tmp_path / family, family)
        loaded = load(tmp_path / family)
        assert not any("decoder" in name for name, _ in loaded.model.named_parameters())
        assert torch.allclose(states_of(loaded.model, [5, 9, 7]), states_of(whole.get_encoder(), [5, 9, 7]), atol=1e-6)
    T5EncoderModel(model_of("t5").config).save_pretrained(tmp_path / "alone")
    assert load(tmp_path / "alone").weights == "real"


@pytest.mark.parametrize(
    ("place", "own"),
    [
        ("config.json", {"model_type": "my_bert", "auto_map": {"AutoConfig": "mine.C", "AutoModel": "mine.M"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "mine.Tokenizer"}}),
    ],
)
def test_code_of_its_own_is_refused_without_asking(tmp_path, place, own, monkeypatch):
    save(tmp_path)
    edit(tmp_path / place, **own)
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(ValueError, match="code of its own"):
        _base.check(f"path:{tmp_path}")


def test_code_beside_a_family_that_transformers_has_is_left_aside_and_said_so(tmp_path):
    """As published folders of EuroBERT are: the code is older than the library's own."""
    model = save(tmp_path, "eurobert")
    edit(tmp_path / "config.json", auto_map={"AutoModel": "mine.Model"})
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')")
    loaded = load(tmp_path)
    assert torch.equal(states_of(loaded.model, [5, 9]), states_of(model, [5, 9]))
    assert "by transformers' own eurobert, not its folder's code" in loaded.description


WEIGHT = "encoder.layer.1.output.dense.weight"


def rename(weights):
    return {f"_orig_mod.{key}": value for key, value in weights.items()}


def drop(weights):
    return {key: value for key, value in weights.items() if key != WEIGHT}


def resize(weights):
    return {**weights, WEIGHT: torch.zeros(32, 7)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, r"weights are not in its files, .*_orig_mod.*would stay random"),
        (drop, f"1 of its model's .*{WEIGHT}"),
        (resize, r"config\.json makes it \(32, 48\)"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(tmp_path, change, message):
    save(tmp_path)
    reweigh(tmp_path / "model.safetensors", change)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_weights_that_the_configuration_has_no_place_for_are_refused(tmp_path):
    """A bias that is left out changes every encoding."""
    save(tmp_path, "llama", attention_bias=True)
    edit(tmp_path / "config.json", attention_bias=False)
    with pytest.raises(ValueError, match=r"files hold .*bias, which the model of its config\.json does not have"):
        load(tmp_path)


def test_a_tokenizer_of_another_model_or_of_none_is_refused(tmp_path):
    save(tmp_path, vocab_size=50)
    with pytest.raises(ValueError, match=f"gives ids up to {ROWS - 1}, and its model has rows for 0 to 49"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="its tokenizer could not be loaded"):
        load(tmp_path)


def test_a_type_that_transformers_does_not_know_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "my_bert"}')
    with pytest.raises(ValueError, match="my_bert") as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


def test_models_of_pictures_are_refused(tmp_path):
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
    picture = dict(sizes, image_size=32, patch_size=8)
    text = model_of("clip_text_model").config.to_dict()
    made = {
        "vit": ViTModel(ViTConfig(**picture)),
        "vision": CLIPVisionModel(CLIPVisionConfig(**picture)),
        "both": CLIPModel(CLIPConfig(text_config=text, vision_config=picture, projection_dim=8)),
    }
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
        expected = "save its text model alone" if name == "both" else "reads pictures and not texts"
        with pytest.raises(ValueError, match=expected):
            load(tmp_path / name)


def test_a_tokenizers_options_are_part_of_its_fingerprint(tmp_path):
    """The cache of token ids is keyed by it: the same vocabulary, lowered or not, gives other ids."""
    save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    found = []
    for lower in (True, False):
        config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = load(tmp_path).tokenizer
        found.append((tokenizer.fingerprint, tokenizer.encode(["AB"])))
    assert found[0][1] != found[1][1]
    assert found[0][0] != found[1][0]


def test_ids_that_are_not_the_files_own_are_told(tmp_path):
    """AutoTokenizer builds some classes anew; what it gives is what sentence-transformers gives, and is said."""
    save(tmp_path)
    assert "AutoTokenizer" not in load(tmp_path).description
    edit(tmp_path / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=False)
    from transformers import AutoTokenizer

    loaded = load(tmp_path)
    assert loaded.tokenizer.encode(list(TEXTS)) == AutoTokenizer.from_pretrained(tmp_path)(list(TEXTS))["input_ids"]
    plain = json.loads((tmp_path / "tokenizer.json").read_text())
    told = "token ids as AutoTokenizer" in loaded.description
    assert told == (plain["normalizer"]["lowercase"] and loaded.tokenizer.encode(["A"]) != [[2, 5 + 10, 3]])


def test_the_hub_and_a_folder_of_the_same_files_are_the_same_encoder(tmp_path, monkeypatch):
    """`hub:` loads the folder that the hub's files are, by the same code."""
    save(tmp_path / "model")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "model"))
    asked = _base.Loading(torch.device("cpu"), torch.float32, dropout="off")
    hub, path = _base.load("hub:a/model", asked), load(tmp_path / "model")
    assert hub.tokenizer.fingerprint == path.tokenizer.fingerprint
    assert hub.description.partition(":")[2] == path.description.partition(":")[2]


COMMANDS = {
    "run": ["run", "--out", "out"],
    "dry run": ["run", "--dry-run"],
    "verify": ["verify"],
    "profile": ["profile", "--out", "out"],
    "train": ["train", "--out", "out"],
    "dry training": ["train", "--dry-run"],
}


def command(name, folder, text_length=8):
    trains = COMMANDS[name][0] == "train"
    axes = {"encoder": [f"path:{folder}"], "workload": ["movielens" if trains else "synthetic"]}
    axes |= {"text_length": [text_length], "layers": ["all"], "part": []}
    table = "train.sweep" if trains else "sweep"
    changes = [part for key, value in axes.items() for part in ("--set", f"{table}.{key}={json.dumps(value)}")]
    first, *rest = COMMANDS[name]
    return CliRunner().invoke(app, [first, "--preset", "smoke", "--device", "cpu", *rest, *changes])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_command_says_what_is_wrong_before_anything_is_measured(tmp_path, elsewhere):
    save(tmp_path / "model")
    reweigh(tmp_path / "model/model.safetensors", rename)
    said = set()
    for name in COMMANDS:
        result = command(name, tmp_path / "model")
        assert result.exit_code == 2, (name, result.output)
        said.add(result.stderr.strip().splitlines()[-1])
        assert not (tmp_path / "out").exists()
    assert len(said) == 1
    assert "would stay random" in said.pop()


def test_texts_that_are_too_long_are_refused_before_anything_is_measured(tmp_path, elsewhere):
    save(tmp_path / "model")
    result = command("run", tmp_path / "model", text_length=131)
    assert result.exit_code == 2
    assert "text_length 131 is more than the 130 tokens" in result.stderr


def test_a_dry_run_names_pooling_prompt_and_normalisation(tmp_path, elsewhere):
    save(tmp_path / "model", "qwen3")
    result = command("dry run", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert "encoding: last token (the model is causal), no prompt, not normalised" in result.stdout
