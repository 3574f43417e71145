"""What a folder's files make of a text: sentence-transformers' pooling, heads and prompts, adapters on their base."""

import json
import shutil
import sys

import pytest
import torch
from transformers import AutoModel, Qwen3ForCausalLM

from bench.configuration.config import Config, ModelSettings, RunSettings, Sweep
from bench.inputs import contents
from gram_core.exactness import Float64Throughout
from tests.bench._encoder_folders import (
    TEXTS,
    edit,
    encoded,
    encoder_of,
    load,
    model_of,
    reweigh,
    save,
    save_tokenizer,
    states_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


def published(tmp_path, folder, *names, family="bert", prompts=None, default=None, longest=None):
    """A folder that sentence-transformers saves, with modules of these names, and what it loads from it."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    source = tmp_path / f"source-{family}"
    save(source, family)
    save_tokenizer(source, padding_side="left" if family == "qwen3" else "right")
    first = modules.Transformer(str(source), **({"max_seq_length": longest} if longest else {}))
    torch.manual_seed(3)
    every = [first, *parts_of(names)]
    SentenceTransformer(modules=every, prompts=prompts, default_prompt_name=default, device="cpu").save(str(folder))
    return SentenceTransformer(str(folder), device="cpu")


def parts_of(names):
    from sentence_transformers.sentence_transformer import modules

    width, made = 32, []
    for name in names:
        if name == "dense":
            made.append(modules.Dense(width, 12))
            width = 12
        elif name == "linear":
            made.append(modules.Dense(width, 20, bias=False, activation_function=torch.nn.Identity()))
            width = 20
        else:
            made.append(modules.Normalize() if name == "normalize" else modules.Pooling(32, pooling_mode=name))
    return made


PUBLISHED = {
    "mean": (["mean"], {}),
    "cls": (["cls", "normalize"], {}),
    "max": (["max", "normalize"], {}),
    "last": (["lasttoken"], {"family": "qwen3"}),
    "last, normalised": (["lasttoken", "normalize"], {"family": "qwen3", "longest": 20}),
    "last of a bidirectional model": (["lasttoken"], {}),
    "prompt": (["mean", "normalize"], {"prompts": {"query": "find: ", "document": "film: "}, "default": "document"}),
    "dense": (["mean", "dense"], {"longest": 16}),
    "normalised, then dense": (["mean", "normalize", "dense"], {}),
    "two dense": (["mean", "linear", "dense", "normalize"], {"family": "roberta"}),
}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "2_Dense/pytorch_model.bin"])
def test_no_pickle_is_executed(tmp_path, folder, name):
    published(tmp_path, folder, "mean", "dense")
    (folder / name).with_name("model.safetensors").unlink()
    torch.save({"linear.weight": Evil(str(tmp_path / "executed"))}, folder / name)
    with pytest.raises(ValueError, match="its code is not run"):
        encoder_of(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("case", PUBLISHED)
def test_encodings_are_those_of_sentence_transformers(tmp_path, folder, case):
    names, options = PUBLISHED[case]
    expected = torch.tensor(published(tmp_path, folder, *names, **options).encode(list(TEXTS)))
    encoder, texts = encoder_of(folder)
    with torch.no_grad():
        found = encoder(texts)
    assert found.shape == expected.shape
    assert encoder.width == expected.shape[1]
    assert float((found - expected).abs().max()) <= 1e-6 * max(1.0, float(expected.abs().max()))
    if "longest" in options:
        assert int(texts.lengths.max()) == options["longest"]
    plain = encoded(folder, "mean")
    if case != "mean":
        assert plain.shape != found.shape or not torch.allclose(plain, found, atol=1e-3)


@pytest.mark.parametrize("kind", ["dense", "adapters"])
def test_what_verify_loads_in_float64_are_the_same_weights(tmp_path, folder, kind):
    """Files are read as they are stored while everything else that asks for float32 gets float64."""
    if kind == "dense":
        published(tmp_path, folder, "mean", "dense")
    else:
        adapted(tmp_path, folder)
    expected = encoded(folder)
    with Float64Throughout():
        found = encoded(folder, dtype=torch.float64)
    assert found.dtype == torch.float64
    assert torch.allclose(found.float(), expected, atol=1e-5)


def test_older_folders_name_their_pooling_by_flags(tmp_path, folder):
    published(tmp_path, folder, "cls")
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(flags))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9, "do_lower_case": true}')
    from sentence_transformers import SentenceTransformer

    expected = torch.tensor(SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS)))
    assert torch.allclose(encoded(folder), expected, atol=1e-6)


def test_encodings_of_which_the_first_numbers_are_kept_are_refused(tmp_path, folder):
    published(tmp_path, folder, "mean")
    said = folder / "config_sentence_transformers.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"truncate_dim": 8}))
    with pytest.raises(ValueError, match=r"first 8 numbers of an encoding \(truncate_dim\)"):
        encoder_of(folder)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("1_Pooling", {"pooling_mode": "weightedmean"}, "its pooling is weightedmean"),
        ("1_Pooling", {"pooling_mode": ["cls", "mean"]}, "its pooling is cls with mean"),
        ("2_Dense", {"in_features": 32, "out_features": 12, "activation_function": "os.system"}, "os.system"),
        ("2_Dense", {"in_features": 32, "out_features": 11}, "do not fit its config"),
    ],
)
def test_ways_that_are_not_computed_here_are_refused_unless_another_is_asked_for(
    tmp_path, folder, name, config, message
):
    published(tmp_path, folder, "mean", "dense")
    (folder / name / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        encoder_of(folder)
    encoder_of(folder, pooling="cls")


def adapted(tmp_path, folder, family="bert", **options):
    """A folder of adapters on a saved base model, and the model with them in place."""
    peft = pytest.importorskip("peft")
    save(tmp_path / "base", family)
    base = AutoModel.from_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    targets = ["query", "value"] if family == "bert" else ["q_proj", "v_proj"]
    config = peft.LoraConfig(r=4, lora_dropout=0.1, target_modules=targets, init_lora_weights=False, **options)
    model = peft.get_peft_model(base, config).eval()
    if options.get("modules_to_save"):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "modules_to_save" in name:
                    parameter.mul_(1.7)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "options", [{}, {"use_dora": True}, {"modules_to_save": ["LayerNorm"]}, {"use_rslora": True}], ids=str
)
def test_adapters_are_loaded_onto_their_base_and_train(tmp_path, options):
    expected = adapted(tmp_path, tmp_path / "adapter", **options)
    loaded = load(tmp_path / "adapter", torch.float32)
    assert torch.allclose(states_of(loaded.model, [5, 9, 7]), states_of(expected, [5, 9, 7]), atol=1e-6)
    trained = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
    kinds = ("lora_", "modules_to_save")
    assert trained
    assert all(any(kind in name for kind in kinds) for name in trained)
    assert any("modules_to_save" in name for name in trained) == ("modules_to_save" in options)
    assert "adapters of rank 4" in loaded.description
    assert loaded.tokenizer is not None
    loaded.model.train()
    assert torch.equal(*(loaded.model(input_ids=torch.tensor([[5, 9]])).last_hidden_state for _ in range(2)))


def test_adapters_that_were_trained_below_a_head_are_put_in_place(tmp_path):
    peft = pytest.importorskip("peft")
    whole = Qwen3ForCausalLM(model_of("qwen3").config)
    whole.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(whole, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = load(tmp_path / "adapter", base=f"path:{tmp_path / 'base'}")
    assert torch.allclose(states_of(loaded.model, [5, 9]), states_of(model.base_model.model.model, [5, 9]), atol=1e-6)
    assert loaded.causal


def test_adapters_whose_base_or_weights_are_not_there_are_refused(tmp_path, monkeypatch):
    adapted(tmp_path, tmp_path / "adapter")
    for named, message in (
        (None, "names no base model; set model.base"),
        ("/no/where", "not at /no/where.*model.base"),
    ):
        edit(tmp_path / "adapter/adapter_config.json", base_model_name_or_path=named)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "adapter")
    base = f"path:{tmp_path / 'base'}"
    assert load(tmp_path / "adapter", base=base).weights == "real"
    reweigh(tmp_path / "adapter/adapter_model.safetensors", lambda weights: dict(list(weights.items())[1:]))
    with pytest.raises(ValueError, match="1 of the 8 weights that its adapters need are not in its files"):
        load(tmp_path / "adapter", base=base)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r'pip install "gram-bench\[lora\]"'):
        load(tmp_path / "adapter", base=base)


def hashed(folder, base=None):
    settings = Config(run=RunSettings(), model=ModelSettings(base=base), sweep=Sweep())
    return contents._hashed(contents.encoder_files(settings, f"path:{folder}"))


def changes_of(read, folder):
    """By file of a folder, the parts whose hash goes with it."""
    before, found = read(), {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        kept = file.read_bytes()
        file.write_bytes(kept + b" ")
        after = read()
        found[file.relative_to(folder).as_posix()] = {part for part in after if after[part] != before[part]}
        file.write_bytes(kept)
    assert read() == before
    return found


def test_all_that_makes_an_encoding_is_part_of_what_an_encoder_is(tmp_path, folder):
    """Pooling, what follows it, and prompts, too: other files are another encoder."""
    published(tmp_path, folder, "mean", "linear", "dense", "normalize", prompts={"query": "q: "})
    found = changes_of(lambda: hashed(folder), folder)
    read = {name: parts for name, parts in found.items() if not name.endswith(".md")}
    parts = {"1_Pooling/config.json", "2_Dense/model.safetensors", "3_Dense/model.safetensors", "modules.json"}
    assert parts <= set(read)
    assert all(parts for parts in read.values()), read
    assert not any(found[name] for name in set(found) - set(read))
    assert found["3_Dense/model.safetensors"] == {"weights"}
    assert found["config_sentence_transformers.json"] == {"configuration"}
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert hashed(moved) == hashed(folder)
    shutil.copy(folder / "2_Dense/model.safetensors", moved / "3_Dense/model.safetensors")
    assert hashed(moved) != hashed(folder), "each file counts in its own place"


def test_adapters_and_the_model_that_they_are_on_are_part_of_what_an_encoder_is(tmp_path):
    adapted(tmp_path, tmp_path / "adapter")
    own = changes_of(lambda: hashed(tmp_path / "adapter"), tmp_path / "adapter")
    assert own["adapter_model.safetensors"] == {"weights"}
    assert own["adapter_config.json"] == {"configuration"}
    base = changes_of(lambda: hashed(tmp_path / "adapter"), tmp_path / "base")
    assert base["model.safetensors"] == {"base weights"}
    assert base["config.json"] == {"base configuration"}
    save(tmp_path / "other", seed=1)
    instead = hashed(tmp_path / "adapter", f"path:{tmp_path / 'other'}")
    assert instead["base weights"] == hashed(tmp_path / "other")["weights"] != hashed(tmp_path / "base")["weights"]
