"""Folders that people bring as encoders: used as they say, or refused in one sentence before anything is measured."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
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
from bench.configuration.config import Config, ModelSettings, RunSettings, Sweep
from bench.encoders import _base
from bench.encoders._encoding import encoding_of
from bench.inputs import contents
from gram_core.batch import ItemTable
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.exactness import Float64Throughout
from tests.bench._encoder_folders import CAUSAL, FAMILIES, ROWS, TEXTS, VOCABULARY, model_of, save, save_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(folder, dtype=torch.float32, dropout="off", **options):
    encoder = f"path:{folder}"
    _base.check(encoder)
    return _base.load(encoder, _base.Loading(**{"device": CPU, "dtype": dtype, "dropout": dropout, **options}))


def encoder_of(folder, pooling="auto", **options):
    """The encoder that a run would build, and the texts as it would cut them."""
    loaded = load(folder, **options)
    encoding = encoding_of(loaded, pooling, f"path:{folder}")
    used = encoding.loaded
    length = min(used.longest_text, 128)
    encoder = HuggingFaceEncoder(
        used.model.eval(),
        pad_token_id=used.pad_token_id,
        text_length=length,
        pooling=encoding.pooling,
        padding="longest",
        head=encoding.head,
    )
    table = ItemTable.from_lists(used.tokenizer.encode(TEXTS)).truncated(length, used.closing_token_id)
    return encoder, table.texts(torch.arange(len(TEXTS)))


def states_of(model, text):
    with torch.no_grad():
        ids = torch.tensor([text])
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]


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


def test_weights_under_other_names_are_refused(tmp_path):
    save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({f"_orig_mod.{key}": value for key, value in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"weights are not in its files, .*_orig_mod.*would stay random"):
        load(tmp_path)


def test_a_single_weight_that_is_missing_or_of_another_size_is_refused(tmp_path):
    save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"1 of its model's .*{name}"):
        load(tmp_path)
    save_file({**weights, name: torch.zeros(32, 7)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"config\.json makes it \(32, 48\)"):
        load(tmp_path)


def test_weights_that_the_configuration_has_no_place_for_are_refused(tmp_path):
    """A bias that is left out changes every encoding."""
    save(tmp_path, "llama", attention_bias=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": False}))
    with pytest.raises(ValueError, match=r"files hold .*bias, which the model of its config\.json does not have"):
        load(tmp_path)


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
    if widened:
        with Float64Throughout():
            loaded = load(tmp_path, torch.float64)
    else:
        loaded = load(tmp_path)
    assert torch.allclose(states_of(loaded.model, [5, 9]).float(), states_of(model, [5, 9]), atol=1e-6)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "2_Dense/pytorch_model.bin"])
def test_no_pickle_is_executed(tmp_path, name):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    folder = tmp_path / "model"
    published(tmp_path, folder, modules.Pooling(32), modules.Dense(32, 8))
    (folder / name).with_name("model.safetensors").unlink()
    torch.save({"linear.weight": Evil(str(tmp_path / "executed"))}, folder / name)
    with pytest.raises(ValueError, match="its code is not run"):
        encoder_of(folder)
    assert not (tmp_path / "executed").exists()


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


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    save(tmp_path, vocab_size=50)
    with pytest.raises(ValueError, match=f"gives ids up to {ROWS - 1}, and its model has rows for 0 to 49"):
        load(tmp_path)


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused_without_asking(tmp_path, place, monkeypatch):
    save(tmp_path)
    found = json.loads((tmp_path / place).read_text())
    own = {"AutoTokenizer": "mine.Tokenizer"}
    if place == "config.json":
        own, found["model_type"] = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}, "my_bert"
    (tmp_path / place).write_text(json.dumps({**found, "auto_map": own}))
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(ValueError, match="code of its own"):
        _base.check(f"path:{tmp_path}")


def test_code_beside_a_family_that_transformers_has_is_left_aside_and_said_so(tmp_path):
    """As published folders of EuroBERT are: the code is older than the library's own."""
    model = save(tmp_path, "eurobert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "mine.Model"}}))
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')")
    loaded = load(tmp_path)
    assert torch.equal(states_of(loaded.model, [5, 9]), states_of(model, [5, 9]))
    assert "by transformers' own eurobert, not its folder's code" in loaded.description


def test_a_tokenizer_that_cannot_be_read_is_no_missing_one(tmp_path):
    save(tmp_path)
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


def published(tmp_path, folder, *parts, family="bert", prompts=None, default=None, longest=None):
    """A folder that sentence-transformers saves, and what it loads from it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    source = tmp_path / f"source-{family}"
    save(source, family)
    save_tokenizer(source, padding_side="left" if family == "qwen3" else "right")
    first = modules.Transformer(str(source), **({"max_seq_length": longest} if longest else {}))
    torch.manual_seed(3)
    whole = SentenceTransformer(
        modules=[first, *parts], prompts=prompts or {}, default_prompt_name=default, device="cpu"
    )
    whole.save(str(folder))
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
    "two dense": (["mean", "linear", "dense", "normalize"], {"family": "roberta"}),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_encodings_are_those_of_sentence_transformers(tmp_path, case):
    pytest.importorskip("sentence_transformers")
    names, options = PUBLISHED[case]
    whole = published(tmp_path, tmp_path / "model", *parts_of(names), **options)
    expected = torch.tensor(whole.encode(list(TEXTS)))
    encoder, texts = encoder_of(tmp_path / "model")
    with torch.no_grad():
        found = encoder(texts)
    assert found.shape == expected.shape
    assert encoder.width == expected.shape[1]
    assert float((found - expected).abs().max()) <= 1e-6 * max(1.0, float(expected.abs().max()))
    if "longest" in options:
        assert int(texts.lengths.max()) == options["longest"]
    other, others = encoder_of(tmp_path / "model", pooling="mean")
    with torch.no_grad():
        plain = other(others)
    if case != "mean":
        assert plain.shape != found.shape or not torch.allclose(plain, found, atol=1e-3)


@pytest.mark.parametrize("kind", ["dense", "adapters"])
def test_what_verify_loads_in_float64_are_the_same_weights(tmp_path, kind):
    """Files are read as they are stored while everything else that asks for float32 gets float64."""
    if kind == "dense":
        pytest.importorskip("sentence_transformers")
        published(tmp_path, tmp_path / "model", *parts_of(["mean", "dense"]))
    else:
        adapted(tmp_path, tmp_path / "model")
    encoder, texts = encoder_of(tmp_path / "model")
    with torch.no_grad():
        expected = encoder(texts)
        with Float64Throughout():
            wide, _ = encoder_of(tmp_path / "model", dtype=torch.float64)
            found = wide(texts)
    assert found.dtype == torch.float64
    assert torch.allclose(found.float(), expected, atol=1e-5)


def test_older_folders_name_their_pooling_by_flags(tmp_path):
    pytest.importorskip("sentence_transformers")
    published(tmp_path, tmp_path / "model", *parts_of(["cls"]))
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}
    (tmp_path / "model/1_Pooling/config.json").write_text(json.dumps(flags))
    (tmp_path / "model/sentence_bert_config.json").write_text('{"max_seq_length": 9, "do_lower_case": true}')
    from sentence_transformers import SentenceTransformer

    expected = torch.tensor(SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(list(TEXTS)))
    encoder, texts = encoder_of(tmp_path / "model")
    with torch.no_grad():
        assert torch.allclose(encoder(texts), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1_Pooling/config.json": {"pooling_mode": "weightedmean"}}, "its pooling is weightedmean"),
        ({"1_Pooling/config.json": {"pooling_mode": ["cls", "mean"]}}, "its pooling is cls with mean"),
        (
            {"2_Dense/config.json": {"in_features": 32, "out_features": 12, "activation_function": "os.system"}},
            "os.system",
        ),
        ({"2_Dense/config.json": {"in_features": 32, "out_features": 11}}, "do not fit its config"),
    ],
)
def test_ways_that_are_not_computed_here_are_refused_unless_another_is_asked_for(tmp_path, change, message):
    pytest.importorskip("sentence_transformers")
    published(tmp_path, tmp_path / "model", *parts_of(["mean", "dense"]))
    for name, config in change.items():
        (tmp_path / "model" / name).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        encoder_of(tmp_path / "model")
    encoder_of(tmp_path / "model", pooling="cls")


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
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    for named, message in (
        (None, "names no base model; set model.base"),
        ("/no/where", "not at /no/where.*model.base"),
    ):
        changed = {**config, "base_model_name_or_path": named}
        (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "adapter")
    base = f"path:{tmp_path / 'base'}"
    assert load(tmp_path / "adapter", base=base).weights == "real"
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(ValueError, match="1 of the 8 weights that its adapters need are not in its files"):
        load(tmp_path / "adapter", base=base)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r'pip install "gram-bench\[lora\]"'):
        load(tmp_path / "adapter", base=base)


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
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "AutoTokenizer" not in load(tmp_path).description
    changed = {**config, "tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(changed))
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
    options = dict(layers=None, device=CPU, dtype=torch.float32, seed=0, dropout="off")
    hub, path = _base.load("hub:a/model", _base.Loading(**options)), load(tmp_path / "model")
    assert hub.tokenizer.fingerprint == path.tokenizer.fingerprint
    assert hub.description.partition(":")[2] == path.description.partition(":")[2]
    shutil.rmtree(tmp_path / "model")


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


def test_every_command_says_what_is_wrong_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    save_file({f"bad.{key}": value for key, value in weights.items()}, tmp_path / "model/model.safetensors")
    said = set()
    for name in COMMANDS:
        result = command(name, tmp_path / "model")
        assert result.exit_code == 2, (name, result.output)
        said.add(result.stderr.strip().splitlines()[-1])
        assert not (tmp_path / "out").exists()
    assert len(said) == 1
    assert "would stay random" in said.pop()


def test_texts_that_are_too_long_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model")
    result = command("run", tmp_path / "model", text_length=131)
    assert result.exit_code == 2
    assert "text_length 131 is more than the 130 tokens" in result.stderr


def test_a_dry_run_names_pooling_prompt_and_normalisation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model", "qwen3")
    result = command("dry run", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert "encoding: last token (the model is causal), no prompt, not normalised" in result.stdout


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


def test_all_that_makes_an_encoding_is_part_of_what_an_encoder_is(tmp_path):
    """Pooling, what follows it, and prompts, too: other files are another encoder."""
    pytest.importorskip("sentence_transformers")
    published(
        tmp_path, tmp_path / "model", *parts_of(["mean", "linear", "dense", "normalize"]), prompts={"query": "q: "}
    )
    found = changes_of(lambda: hashed(tmp_path / "model"), tmp_path / "model")
    read = {name: parts for name, parts in found.items() if not name.endswith(".md")}
    assert {"1_Pooling/config.json", "2_Dense/model.safetensors", "3_Dense/model.safetensors", "modules.json"} <= set(
        read
    )
    assert all(parts for parts in read.values()), read
    assert not any(found[name] for name in set(found) - set(read))
    assert found["3_Dense/model.safetensors"] == {"weights"}
    assert found["config_sentence_transformers.json"] == {"configuration"}
    shutil.copytree(tmp_path / "model", tmp_path / "moved")
    assert hashed(tmp_path / "moved") == hashed(tmp_path / "model")
    shutil.copy(tmp_path / "model/2_Dense/model.safetensors", tmp_path / "moved/3_Dense/model.safetensors")
    assert hashed(tmp_path / "moved") != hashed(tmp_path / "model"), "each file counts in its own place"


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
