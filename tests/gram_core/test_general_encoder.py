"""Models of any family on packed texts by their own code: encodings, gradients and moves are those of padded texts."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from gram_core.batch import ItemTable, Texts
from gram_core.encoders.general import GeneralEncoder, unsupported
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.shadows import Shadows
from gram_core.encoders.watch import Watch
from gram_core.engines import fast
from gram_core.exactness import Float64Throughout, parameters, relative_errors
from gram_core.methods.multi_step import MultiStep
from gram_core.methods.single_step import SingleStep
from gram_core.training import Training
from tests.gram_core._models import make_training, with_adamw
from tests.gram_core.test_fast_engine import batch

WIDTH, LONGEST = 16, 40
SIZES: dict[str, Any] = {"vocab_size": 120, "hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "modernbert": {"num_hidden_layers": 4, "local_attention": 8, "pad_token_id": 0, "global_attn_every_n_layers": 2},
    "qwen3": {"num_hidden_layers": 3, **GROUPED},
    "llama": {"num_hidden_layers": 2, **GROUPED},
    "eurobert": {"num_hidden_layers": 2, **GROUPED, **dict.fromkeys(["pad_token_id", "bos_token_id"], 0)},
    "mistral": {"num_hidden_layers": 2, **GROUPED, "sliding_window": 5},
    "gemma3_text": {"num_hidden_layers": 3, **GROUPED, "sliding_window": 6, "use_bidirectional_attention": True},
    "mpnet": {"num_hidden_layers": 2, "max_position_embeddings": LONGEST + 2},
    "albert": {"num_hidden_layers": 2, "embedding_size": 12, "max_position_embeddings": LONGEST},
}


def encoder_of(family: str, dtype: torch.dtype = torch.float64, adapters: bool = False) -> HuggingFaceEncoder:
    config = AutoConfig.for_model(family, **SIZES | FAMILIES[family])
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    if getattr(model, "pooler", None) is not None:
        model.register_module("pooler", None)
    if adapters:
        peft = pytest.importorskip("peft")
        lora = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        model = peft.get_peft_model(model, lora).get_base_model()
    model, pad = model.to(dtype), config.pad_token_id or 0
    return HuggingFaceEncoder(model, pad_token_id=pad, text_length=LONGEST, pooling="auto", padding="longest").train()


def texts_of(*lengths: int) -> Texts:
    torch.manual_seed(1)
    table = ItemTable.from_lists([torch.randint(3, 120, (length,)).tolist() for length in lengths])
    return table.texts(torch.arange(len(lengths)))


def encoded(encode: Any, encoder: torch.nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    encodings = encode()
    weights = torch.cos(torch.arange(encodings.numel(), dtype=encodings.dtype)).view_as(encodings).to(encodings.device)
    named = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((encodings * weights).sum(), list(named.values()), allow_unused=True)
    return encodings.detach(), {n: g for n, g in zip(named, found, strict=True) if g is not None}


def agree(encoder: HuggingFaceEncoder, general: GeneralEncoder, texts: Texts) -> float:
    """The largest relative distance of encodings and gradients from those of padded texts."""
    packed = general.pack(texts, len(texts.tokens) + 70, len(texts) + 3)
    with Float64Throughout():
        found, gradients = encoded(lambda: general.encode(packed)[: len(texts)], encoder)
        expected, its = encoded(lambda: encoder(texts), encoder)
    assert gradients.keys() == its.keys()
    return max(relative_errors({"": found, **gradients}, {"": expected, **its}).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_longer_than_a_window_are_encoded_as_when_padded(family: str) -> None:
    encoder = encoder_of(family)
    assert agree(encoder, GeneralEncoder(encoder), texts_of(40, 1, 23, 7, 12, 3)) <= 1e-10


@pytest.mark.parametrize("way", ["adapters", "frozen", "checkpointed", "recomputing"])
@pytest.mark.parametrize("family", ["modernbert", "qwen3", "mpnet"])
def test_what_learns_and_what_is_kept_is_as_the_model_says(family: str, way: str) -> None:
    encoder = encoder_of(family, adapters=way == "adapters")
    if way == "frozen":
        layers = GeneralEncoder(encoder)._layers
        encoder.model.get_input_embeddings().requires_grad_(False)
        layers[0].requires_grad_(False)
    if way == "checkpointed":
        if not encoder.model.supports_gradient_checkpointing:
            pytest.skip("this family has no checkpointing")
        encoder.model.gradient_checkpointing_enable()
    general = GeneralEncoder(encoder)
    assert agree(encoder, general.recomputing() if way == "recomputing" else general, texts_of(40, 1, 23, 7)) <= 1e-10


def test_checkpointed_layers_keep_their_inputs_alone() -> None:
    encoder = encoder_of("qwen3")

    def kept(general: GeneralEncoder) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            general.encode(general.pack(texts_of(40, 30, 20)))
        return sum(sizes.values())

    general = GeneralEncoder(encoder)
    assert kept(general.recomputing()) < kept(general) / 2


def test_the_model_is_left_as_it_was() -> None:
    encoder = encoder_of("modernbert")
    before = [(module, dict(vars(module)), dict(module._parameters)) for module in encoder.modules()]
    config = dict(vars(encoder.model.config))
    general = GeneralEncoder(encoder)
    general.encode(general.pack(texts_of(5, 9)))
    general.recomputing().encode(general.pack(texts_of(5, 9))).sum().backward()
    assert all(vars(module).keys() == was.keys() and module._parameters == its for module, was, its in before)
    assert vars(encoder.model.config) == config


def training_in_float32(family: str, adapters: bool) -> Training:
    training = make_training(encoder_of(family, torch.float32, adapters))
    training.cf_module.float()
    return with_adamw(training)


def moved(family: str, method: Any, adapters: bool, *, stands: bool, patch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    training = training_in_float32(family, adapters)
    with patch.context() as patched:
        if not stands:
            patched.setattr("gram_core.engines._capturable.can_stand", lambda *_: False)
        built = fast.build_packed(*method(training), GeneralEncoder(training.encoder, torch.bfloat16))
    assert isinstance(built._encoder.standing, Shadows) is stands
    for seed in range(4):
        built.step(batch(seed=seed))
        if seed == 1:  # somebody loads other weights: they must be seen
            with torch.no_grad():
                for parameter in training.encoder.parameters():
                    parameter.mul_(1.01)
    built.finish()
    return parameters({"encoder": training.encoder, "cf": training.cf_module})


def single(training: Training) -> Any:
    return SingleStep, training, None


def chunked(training: Training) -> Any:
    return SingleStep, training, SingleStep.Settings(chunk_tokens=50)


def several(training: Training) -> Any:
    return MultiStep, training, MultiStep.Settings(accumulation_steps=2)


@pytest.mark.parametrize("method", [single, chunked, several])
@pytest.mark.parametrize(("family", "adapters"), [("modernbert", False), ("qwen3", False), ("qwen3", True)])
def test_shadows_train_as_weights_that_are_cast_for_every_pass(
    family: str, adapters: bool, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = moved(family, method, adapters, stands=True, patch=monkeypatch)
    expected = moved(family, method, adapters, stands=False, patch=monkeypatch)
    untouched = training_in_float32(family, adapters)
    start = parameters({"encoder": untouched.encoder, "cf": untouched.cf_module})
    assert max(relative_errors(found, expected).values()) <= 2e-3
    assert max(relative_errors(start, expected).values()) >= 1e-2, "nothing moved, so nothing was shown"


@pytest.mark.parametrize("family", ["modernbert", "qwen3", "mpnet", "gemma3_text"])
def test_a_table_whose_rows_alone_have_gradients_trains_as_a_whole_one(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weight decay, which moves rows that nobody reads, and an optimizer's state that comes from elsewhere."""

    def trained(fewest: int) -> tuple[dict[str, Tensor], Training, Any]:
        with monkeypatch.context() as patched:
            patched.setattr("gram_core.encoders._table_rows.FEWEST_NUMBERS", fewest)
            training = training_in_float32(family, False)
            built = fast.build_packed(*single(training), GeneralEncoder(training.encoder, torch.bfloat16))
        for group in training.optimization.encoder_optimizer.param_groups:
            group["weight_decay"] = 0.3
        for seed in range(3):
            built.step(batch(seed=seed))
            if seed == 1:
                state = copy.deepcopy(training.optimization.encoder_optimizer.state_dict())
                for moments in state["state"].values():
                    moments["exp_avg"] += 1e-3
                training.optimization.encoder_optimizer.load_state_dict(state)
        return parameters({"encoder": training.encoder, "cf": training.cf_module}), training, built._encoder.standing

    found, training, standing = trained(1)
    expected, _, whole = trained(1 << 40)
    assert standing._rows
    assert not whole._rows
    assert not any(bool(rows.gradient.any()) for rows in standing._rows.values())
    assert max(relative_errors(found, expected).values()) <= 1e-6
    table = training.encoder.model.get_input_embeddings().weight
    assert id(table) in standing._rows
    assert training.optimization.encoder_optimizer.state[table]["exp_avg"].ne(0).all()


def own_call(self: Any, x: Tensor) -> Tensor:
    return torch.nn.functional.embedding(x, self.weight) * 1.5


READINGS: dict[str, Any] = {
    "twice": lambda table, x: table(x) + 0.5 * table((x + 1) % 120),
    "by keyword": lambda table, x: table(input=x),
    "weight as well": lambda table, x: table(x) + 0.5 * table.weight.mean(0),
    "by a subclass": own_call,
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_table_may_be_read_in_any_way(reading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(fewest: int) -> tuple[dict[str, Tensor], Any]:
        training = training_in_float32("qwen3", False)
        table = training.encoder.model.get_input_embeddings()
        if reading == "by a subclass":
            table.__class__ = type("Scaling", (torch.nn.Embedding,), {"forward": own_call})
        else:
            holder = _Reading(table, READINGS[reading])
            training.encoder.model.set_input_embeddings(holder)
        with monkeypatch.context() as patched:
            patched.setattr("gram_core.encoders._table_rows.FEWEST_NUMBERS", fewest)
            built = fast.build_packed(*single(training), GeneralEncoder(training.encoder, torch.bfloat16))
        for seed in range(3):
            built.step(batch(seed=seed))
        return parameters({"encoder": training.encoder, "cf": training.cf_module}), built._encoder.standing

    found, standing = trained(1)
    expected, whole = trained(1 << 40)
    assert bool(standing._rows) is (reading in ("twice", "by keyword"))
    assert not whole._rows
    assert max(relative_errors(found, expected).values()) <= 1e-6


class _Reading(torch.nn.Module):
    def __init__(self, table: torch.nn.Module, read: Any):
        super().__init__()
        self.table, self.read = table, read

    @property
    def weight(self) -> Tensor:
        return self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.table, x)


def test_adapters_that_are_merged_or_scaled_meanwhile_are_followed() -> None:
    encoder = encoder_of("qwen3", adapters=True)
    general, proved = GeneralEncoder(encoder), []
    general.watch = Watch(encoder, lambda: proved.append(1), lambda _: None)
    adapters: Any = [module for module in encoder.modules() if hasattr(module, "merged_adapters")]
    texts = texts_of(9, 5, 5)
    changes: Any = (lambda one: one.merge(), lambda one: one.unmerge(), lambda one: one.set_scale("default", 3.0))
    for change in changes:
        for adapter in adapters:
            change(adapter)
        assert general.holds()
        with torch.no_grad(), Float64Throughout():  # nothing learns while they are merged
            found, expected = general.encode(general.pack(texts)), encoder(texts)
        assert relative_errors({"": found[: len(texts)]}, {"": expected})[""] <= 1e-10
    assert proved, "a change was not seen"


@pytest.mark.parametrize("way", ["loaded", "cleared"])
@pytest.mark.parametrize("fewest", [1, 1 << 40])
def test_an_optimizers_state_may_begin_anew(way: str, fewest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*, anew: bool) -> dict[str, Tensor]:
        training = training_in_float32("qwen3", False)
        optimizer = training.optimization.encoder_optimizer
        start = copy.deepcopy(optimizer.state_dict())
        with monkeypatch.context() as patched:
            patched.setattr("gram_core.encoders._table_rows.FEWEST_NUMBERS", fewest)
            built = fast.build_packed(*single(training), GeneralEncoder(training.encoder, torch.bfloat16))
        for seed in range(4):
            built.step(batch(seed=seed))
            if seed == 1 and anew:
                if way == "loaded":
                    optimizer.load_state_dict(start)
                else:
                    optimizer.state.clear()
            elif seed == 1:  # what it amounts to, in place
                for state in optimizer.state.values():
                    for moment in state.values():
                        moment.zero_()
        return parameters({"encoder": training.encoder, "cf": training.cf_module})

    assert max(relative_errors(trained(anew=True), trained(anew=False)).values()) <= 1e-6


def test_rows_that_nobody_moved_by_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gram_core.encoders._table_rows.FEWEST_NUMBERS", 1)
    general = GeneralEncoder(encoder_of("qwen3", torch.float32), torch.bfloat16)
    general.standing = shadows = general.make_standing(None, False, None)
    (rows,) = shadows._rows.values()
    found = []
    for _ in range(2):
        shadows.begin_step()
        general.encode(general.pack(texts_of(9, 5))).sum().backward()
        found.append(rows.gradient.clone())
    assert found[0].any()
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_only_linears_are_narrow_and_adapters_that_scale_keep_their_base_wide() -> None:
    peft = pytest.importorskip("peft")
    for dora in (False, True):
        encoder = encoder_of("qwen3", torch.float32)
        lora = peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=dora)
        peft.inject_adapter_in_model(lora, encoder.model)
        general = GeneralEncoder(encoder, torch.bfloat16)
        shadows = general.make_standing(None, False, None)
        with shadows.installed():
            found = {name: p.dtype for name, p in encoder.named_parameters()}
        assert found["model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
        assert found["model.norm.weight"] == found["model.embed_tokens.weight"] == torch.float32
        base = found["model.layers.0.self_attn.q_proj.base_layer.weight"]
        assert base == (torch.float32 if dora else torch.bfloat16)


def test_a_backward_pass_that_failed_leaves_nothing_to_the_next_step() -> None:
    general = GeneralEncoder(encoder_of("qwen3", torch.float32), torch.bfloat16)
    packed = general.pack(texts_of(9, 5))

    def gradients(shadows: Shadows) -> list[Tensor]:
        general.standing = shadows
        shadows.begin_step()
        general.encode(packed).sum().backward()
        return [whole.clone() for number in range(-1, shadows.layers) for whole in shadows.own(number)]

    expected = gradients(general.make_standing(None, False, None))
    shadows = general.make_standing(None, False, None)
    first = next(iter(shadows._shadow_of[id(p)] for p in general._layers[0].parameters()))

    def fail(_: Tensor) -> None:
        raise RuntimeError("out of memory")

    hook = first.register_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        gradients(shadows)
    hook.remove()
    assert all(map(torch.equal, gradients(shadows), expected))


def test_a_parameter_without_its_gradient_is_an_error() -> None:
    general = GeneralEncoder(encoder_of("qwen3", torch.float32), torch.bfloat16)
    general.standing = shadows = general.make_standing(None, False, None)
    shadows.check_complete()
    one = shadows._shadow_of[id(general.encoder.model.layers[1].mlp.up_proj.weight)]
    general.encode(general.pack(texts_of(9, 5))).sum().backward(inputs=[one])
    with pytest.raises(RuntimeError, match="had no gradient in a step"):
        shadows.check_complete()


def test_shadows_are_let_go_of() -> None:
    general = GeneralEncoder(encoder_of("qwen3", torch.float32), torch.bfloat16)
    shadows = general.make_standing(None, False, None)
    ends = weakref.ref(shadows)
    del shadows
    gc.collect()
    assert ends() is None


def test_reasons_are_told() -> None:
    encoder = encoder_of("qwen3")
    assert unsupported(encoder) is None
    dropping = copy.deepcopy(encoder)
    dropping.model.layers[0].mlp.add_module("dropout", torch.nn.Dropout(0.1))
    assert "dropout acts" in str(unsupported(dropping))
    with pytest.raises(ValueError, match="dropout acts"):
        GeneralEncoder(dropping)
    refused = copy.deepcopy(encoder)
    refused.model.layers[0].self_attn.attention_dropout = 0.1
    general = GeneralEncoder(refused)
    with pytest.raises(ValueError, match="its attention drops"):
        general.encode(general.pack(texts_of(5)))
