"""Changes to a model that no family's page lists, before set-up and in mid-training: `fast` leaves what `eager` does.

Texts are cut into many runs, so that what padding by runs changes is seen.
"""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from gram_core.batch import ItemTable
from gram_core.encoders._layer_calls import stacks
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.engines import eager, fast
from gram_core.engines._tiers import FallBack, choose
from gram_core.exactness import Float64Throughout, relative_errors
from gram_core.methods.multi_step import MultiStep
from gram_core.methods.single_step import SingleStep
from gram_core.training import Training
from tests.gram_core._models import make_encoder, make_training, with_adamw
from tests.gram_core.test_fast_engine import batch
from tests.gram_core.test_general_encoder import encoder_of
from tests.gram_core.test_tiers import left_by

MODELS: dict[str, Callable[[], HuggingFaceEncoder]] = {
    "bert": lambda: make_encoder(padding="longest"),
    "qwen3": lambda: encoder_of("qwen3"),
}


@pytest.fixture(autouse=True)
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gram_core.encoders.bucketed.on_processor", lambda tokens: tokens)


def layers(encoder: Any) -> list[Any]:
    return stacks(encoder.model)


def linears(encoder: Any) -> list[nn.Linear]:
    return [module for module in layers(encoder)[0].modules() if isinstance(module, nn.Linear)]


def changing(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])


def _hook(encoder: Any, change: Callable[[Tensor], Tensor]) -> None:
    layers(encoder)[0].register_forward_hook(lambda module, inputs, output: changing(output, change))


def _mean_over_tokens(encoder: Any) -> None:
    _hook(encoder, lambda states: states - states.mean(1, keepdim=True))


def _mean_over_texts(encoder: Any) -> None:
    _hook(encoder, lambda states: states - states.mean(0, keepdim=True))


def _token_before(encoder: Any) -> None:
    _hook(encoder, lambda states: states + 0.3 * states.roll(1, 1))


def _first_token(encoder: Any) -> None:
    _hook(encoder, lambda states: torch.cat([2 * states[:, :1], states[:, 1:]], 1))


def _gradient_scaled(encoder: Any) -> None:
    layers(encoder)[0].register_full_backward_hook(
        lambda module, to, of: tuple(0.5 * g if g is not None and g.is_floating_point() else g for g in to)
    )


def _own_attention_function(encoder: Any) -> None:
    def attention(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **others: Any) -> Any:
        return sdpa_attention_forward(module, 1.5 * q, k, v, mask, **others)

    AttentionInterface.register("sharper", attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("sharper", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    encoder.model.set_attn_implementation("sharper")


def _spectral_norm(encoder: Any) -> None:
    """Whose power iteration goes on with every pass."""
    nn.utils.parametrizations.spectral_norm(linears(encoder)[0])


def _pruned(encoder: Any) -> None:
    """A hook makes the weight anew before every pass."""
    torch.nn.utils.prune.l1_unstructured(linears(encoder)[0], "weight", 0.3)


class _Quantised(nn.Module):
    def __init__(self, linear: nn.Linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("numbers", (linear.weight.detach() / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.linear(rows, self.numbers.to(rows.dtype) * self.scale, self.bias)


def _quantised(encoder: Any) -> None:
    for parent in list(layers(encoder)[0].modules()):
        for name, part in list(parent.named_children()):
            if type(part) is nn.Linear:
                setattr(parent, name, _Quantised(part))


class _Centered(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, encodings: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * encodings.detach().mean(0))
        return encodings - self.mean


class _WarmingUp(nn.Module):
    calls = 0

    def forward(self, encodings: Tensor) -> Tensor:
        self.calls += 1
        return encodings * min(1.0, self.calls / 10)


def _running_mean(encoder: Any) -> None:
    encoder.head = nn.Sequential(_Centered(encoder.width)).to(encoder.model.dtype)


def _counted_calls(encoder: Any) -> None:
    encoder.head = nn.Sequential(_WarmingUp())


def _renormed_rows(encoder: Any) -> None:
    encoder.model.get_input_embeddings().max_norm = 0.5


def _other_positions(encoder: Any) -> None:
    for module in encoder.model.modules():
        if "position_ids" in module._buffers:
            module.position_ids = module.position_ids.flip(-1)


def _other_positions_in_place(encoder: Any) -> None:
    for module in encoder.model.modules():
        if "position_ids" in module._buffers:
            module.position_ids.copy_(module.position_ids.flip(-1).clone())


def _other_frequencies(encoder: Any) -> None:
    for module in encoder.model.modules():
        if "inv_freq" in module._buffers:
            module.inv_freq = module.inv_freq * 0.5


def _relu(encoder: Any) -> None:
    for module in layers(encoder)[0].modules():
        for name in {"intermediate_act_fn", "act_fn"} & module._modules.keys():
            setattr(module, name, nn.PReLU().to(encoder.model.dtype))


def _fewer_layers(encoder: Any) -> None:
    for module in encoder.model.modules():
        for part in module.children():
            if isinstance(part, nn.ModuleList) and len(part) > 1:
                del part[-1]
    encoder.model.config.num_hidden_layers -= 1


def _masked_gradient(encoder: Any) -> None:
    """As who trains the rows of a few new tokens alone does."""
    table = encoder.model.get_input_embeddings().weight
    mask = (torch.arange(len(table)) > 20)[:, None]
    table.register_hook(lambda gradient: gradient * mask)


CHANGES = (
    _mean_over_tokens, _mean_over_texts, _token_before, _first_token, _gradient_scaled, _own_attention_function,
    _spectral_norm, _pruned, _quantised, _running_mean, _counted_calls, _renormed_rows, _other_positions,
    _other_positions_in_place, _other_frequencies, _relu, _fewer_layers, _masked_gradient,
)  # fmt: skip
WAYS: dict[str, Any] = {
    "single_step": (SingleStep, SingleStep.Settings()),
    "multi_step": (MultiStep, MultiStep.Settings(accumulation_steps=2)),
}


def trained(engine: Any, model: str, way: str, change: Callable[[Any], None], *, first: bool) -> dict[str, Tensor]:
    with Float64Throughout():
        training = with_adamw(make_training(MODELS[model]()))
        if first:
            change(training.encoder)
        torch.manual_seed(4)
        method = engine.build(WAYS[way][0], training, WAYS[way][1])
        for seed in range(4):
            if seed == 2 and not first:
                change(training.encoder)
            method.step(batch(seed=seed))
        method.finish()
        return left_by(training, method)


TRIED = [
    pytest.param(model, change, (row + column) % 2 == 0, id=f"{model}-{change.__name__.strip('_')}")
    for row, change in enumerate(CHANGES)
    for column, model in enumerate(MODELS)
]
"""Every change on both models: before set-up of the one, in mid-training of the other."""


@pytest.mark.parametrize(("model", "change", "first"), TRIED)
def test_a_changed_model_trains_as_eagerly(model: str, change: Callable[[Any], None], first: bool) -> None:
    way = "single_step" if first else "multi_step"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, expected = (trained(engine, model, way, change, first=first) for engine in (fast, eager))
    assert max(relative_errors(found, expected).values()) <= 1e-8


def told(training: Training, change: Callable[[Any], object]) -> tuple[Any, Any]:
    """The encoder and what ran, after a change in mid-training; the change is asked about by a pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallBack)
        encoder, ran = choose(training)
        before = ran.tier
        change(training.encoder)
        found = encoder(training.table.texts(torch.arange(9)))
    torch.testing.assert_close(found, training.encoder(training.table.texts(torch.arange(9))))
    return before, ran


def test_a_hook_in_the_place_of_another_is_noticed() -> None:
    """As many hooks as before, and another one."""
    encoder = encoder_of("qwen3")
    handle = layers(encoder)[0].register_forward_hook(lambda module, inputs, output: changing(output, lambda x: 2 * x))

    def change(encoder: Any) -> None:
        handle.remove()
        _token_before(encoder)

    before, ran = told(make_training(encoder), change)
    assert (before, ran.tier) == ("general", "as given")
    assert "padded: " in ran.why_no_faster


@pytest.mark.parametrize("name", ["feed_forward_chunk", "of the file"])
def test_a_librarys_function_that_is_replaced_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.bert import modeling_bert

    def change(encoder: Any) -> None:
        if name == "feed_forward_chunk":
            kind = modeling_bert.BertLayer
            own = kind.feed_forward_chunk
            monkeypatch.setattr(kind, name, lambda self, states: 1.5 * own(self, states))
            return
        kernel = sdpa_attention_forward
        monkeypatch.setattr(modeling_bert.BertSelfAttention, "forward", modeling_bert.BertSelfAttention.forward)
        monkeypatch.setattr(
            modeling_bert,
            "eager_attention_forward",
            lambda module, q, k, v, mask, **others: kernel(module, 2 * q, k, v, mask, **others),
        )

    encoder = make_encoder()
    encoder.model.set_attn_implementation("eager")
    before, ran = told(make_training(encoder), change)
    assert (before, ran.tier) == ("packed", "padded")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_another_dtype_are_noticed(model: str, dtype: torch.dtype) -> None:
    """As `model.half()` makes them: the very same parameters."""
    before, ran = told(make_training(MODELS[model]()), lambda encoder: encoder.to(dtype))
    assert before in ("packed", "general")
    assert ran.tier == "padded"


@pytest.mark.parametrize("source", ["torch", "random", "numpy"])
def test_layers_left_out_by_chance_are_not_packed_however_seldom_that_is(source: str) -> None:
    """A proof that happens to leave out none would pass, and chunks that are encoded again would draw anew."""
    import random

    import numpy

    draw: Any = {"torch": lambda: float(torch.rand(())), "random": random.random, "numpy": numpy.random.rand}[source]
    encoder = encoder_of("qwen3")
    layer, own = layers(encoder)[0], layers(encoder)[0].forward
    layer.forward = lambda states, *args, **kwargs: states if draw() < 1e-9 else own(states, *args, **kwargs)
    training = make_training(encoder)
    before = (torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist())
    with pytest.warns(FallBack, match="draws random numbers"):
        _, ran = choose(training)
    assert ran.tier == "padded"
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before[1:]


@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_hooks_of_layers_are_called(kind: str) -> None:
    encoder, called = encoder_of("qwen3"), []
    register = "register_forward_hook" if kind == "forward" else "register_full_backward_hook"
    getattr(layers(encoder)[1], register)(lambda *_: called.append(1))
    with pytest.warns(FallBack):
        packed, ran = choose(make_training(encoder))
    assert ran.tier == "general"
    called.clear()
    packed(make_training(encoder).table.texts(torch.arange(5))).sum().backward()
    assert called == [1]


def test_layers_that_somebody_compiled_stay_compiled() -> None:
    encoder = encoder_of("qwen3")
    for layer in layers(encoder):
        layer.compile(backend="eager")
    before = [layer._compiled_call_impl for layer in layers(encoder)]
    with pytest.warns(FallBack):
        packed, ran = choose(make_training(encoder))
    packed(make_training(encoder).table.texts(torch.arange(5))).sum().backward()
    assert ran.tier == "general"
    assert all(layer._compiled_call_impl is own for layer, own in zip(layers(encoder), before, strict=True))


@pytest.mark.parametrize("family", ["roberta", "mpnet", "bert"])
def test_texts_that_hold_the_id_of_padding_are_encoded_as_when_padded(family: str) -> None:
    """Families that count positions by it count otherwise; one such text among many is among those that are tried."""
    encoder = make_encoder(family)
    rows = [[3, 7, 8, 9, 10][: 2 + number % 4] for number in range(40)]
    rows[17] = [3, 7, encoder.pad_token_id, 8, 9]
    training = make_training(encoder, table=ItemTable.from_lists(rows))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tried, ran = choose(training)
    texts = training.table.texts(torch.tensor([17, 3, 0]))
    torch.testing.assert_close(tried(texts), encoder(texts))
    assert (ran.tier == "packed") is (family == "bert")
    assert any("holds the id of padding" in str(warning.message) for warning in said) is (family != "bert")


def test_a_table_whose_gradient_hangs_on_the_batch_is_refused() -> None:
    model = make_encoder().model
    model.get_input_embeddings().scale_grad_by_freq = True
    with pytest.raises(ValueError, match="scale_grad_by_freq"):
        HuggingFaceEncoder(model, pad_token_id=0, text_length=8)


def test_hooks_on_parameters_that_come_in_mid_training_are_called_and_told() -> None:
    """Weights that stand in bf16 leave no gradient with parameters; steps that are replayed call no hook."""
    training = make_training(make_encoder().float(), amp_dtype=torch.bfloat16)
    training.cf_module.float()
    encoder, _ = choose(with_adamw(training))
    built = fast.build_packed(SingleStep, training, None, encoder)
    assert encoder.standing is not None
    built.step(batch(seed=0))
    called: list[int] = []
    hooks = [p.register_hook(lambda g: called.append(1)) for p in training.encoder.parameters()]
    with pytest.warns(FallBack, match="hooks wait for the gradients"):
        built.step(batch(seed=1))
    assert len(called) > 10
    for hook in hooks:
        hook.remove()
    built.step(batch(seed=2))
    assert encoder.standing is not None


def adapters() -> list[str]:
    try:
        import peft
    except ImportError:
        return []
    return [kind.value for kind in peft.PeftType]


def _with_adapters(encoder: Any, kind: str) -> None:
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    torch.manual_seed(2)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    options = {"AdaLoraConfig": {"total_step": 10}, "IA3Config": {"feedforward_modules": []}}.get(config.__name__, {})
    learned = issubclass(config, peft.PromptLearningConfig)
    options |= {"task_type": "FEATURE_EXTRACTION", "num_virtual_tokens": 2} if learned else {}
    if "target_modules" in config.__dataclass_fields__:
        options |= {"target_modules": ["query"]}
    encoder.model = peft.get_peft_model(encoder.model, config(**options))
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    encoder.double().train()


@pytest.mark.parametrize("kind", adapters())
def test_every_kind_of_adapter_trains_as_eagerly_or_is_refused_alike(kind: str) -> None:
    """Over peft's own list of kinds, those to come included."""
    try:
        _with_adapters(make_encoder(), kind)
    except Exception as error:  # of peft's own: this kind wants what such a model or these options are not
        pytest.skip(f"peft does not put it on a BERT by itself: {str(error)[:80]}")

    def left(engine: Any) -> Any:
        try:
            return trained(engine, "bert", "single_step", lambda encoder: _with_adapters(encoder, kind), first=True)
        except Exception as refusal:  # peft's as well, which ask for inputs that an encoder of texts has not
            return re.sub(r"\d+", "some", f"{type(refusal).__name__}: {refusal}")

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        expected, found = left(eager), left(fast)
    if isinstance(expected, str):
        assert expected.partition(": ")[2] in found
        assert "must match the size" not in expected, "what learned prompts are is told"
    elif not any("draws random numbers" in str(warning.message) for warning in said):
        assert max(relative_errors(found, expected).values()) <= 1e-6  # some kinds compute in float32
