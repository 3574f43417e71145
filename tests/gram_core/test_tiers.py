"""The fast engine computes what the model is at each step, whatever was done to it, or says what it falls back to."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from gram_core.encoders.bucketed import BucketedEncoder, on_gpu
from gram_core.encoders.packed import PackedEncoder
from gram_core.encoders.pooling import ClsPooling
from gram_core.encoders.proof import differs, few_texts
from gram_core.encoders.watch import MOST_STATES, ModuleState
from gram_core.engines import _tiers, eager, fast
from gram_core.engines._tiers import FallBack, choose
from gram_core.evaluation import encode_all
from gram_core.exactness import parameters, relative_errors
from gram_core.methods.multi_step import MultiStep
from gram_core.methods.single_step import SingleStep
from gram_core.modes import IdleDropout
from gram_core.training import Training
from tests.gram_core._models import make_encoder, make_table, make_training, with_adamw
from tests.gram_core.test_fast_engine import batch


class _RootMeanSquare(nn.Module):
    """The attributes of a layer norm, and another computation."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, rows: Tensor) -> Tensor:
        return rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


def _hook_that_scales(encoder: Any) -> None:
    encoder.model.encoder.layer[0].output.register_forward_hook(lambda module, inputs, output: 2 * output)


def _hook_on_the_encoder(encoder: Any) -> None:
    encoder.register_forward_hook(lambda module, inputs, output: 2 * output)


def _hook_before_the_pooling(encoder: Any) -> None:
    encoder.pooling.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0], *inputs[1:]))


def _own_forward(encoder: Any) -> None:
    dense = encoder.model.encoder.layer[1].output.dense
    dense.forward = lambda rows: 2 * nn.functional.linear(rows, dense.weight, dense.bias)


def _own_forward_of_the_encoder(encoder: Any) -> None:
    own = encoder.forward
    encoder.forward = lambda texts: 2 * own(texts)


def _another_norm(encoder: Any) -> None:
    output = encoder.model.encoder.layer[0].output
    output.LayerNorm = _RootMeanSquare(output.LayerNorm)


def _another_epsilon(encoder: Any) -> None:
    encoder.model.encoder.layer[0].output.LayerNorm.eps = 0.5


def _another_scale_of_attention(encoder: Any) -> None:
    encoder.model.encoder.layer[0].attention.self.scaling = 2.0


def _another_activation(encoder: Any) -> None:
    encoder.model.encoder.layer[1].intermediate.intermediate_act_fn = nn.ReLU()


def _another_embedding(encoder: Any) -> None:
    words = encoder.model.embeddings.word_embeddings
    encoder.model.embeddings.word_embeddings = copy.deepcopy(words)
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight.mul_(2)


def _another_pooling(encoder: Any) -> None:
    encoder.pooling = ClsPooling()


def _no_bias(encoder: Any) -> None:
    encoder.model.encoder.layer[0].attention.self.key.bias = None
    encoder.model.encoder.layer[0].output.dense.bias = None


def _tied_layers(encoder: Any) -> None:
    encoder.model.encoder.layer[1] = encoder.model.encoder.layer[0]


def _tied_matrices(encoder: Any) -> None:
    first, second = encoder.model.encoder.layer
    second.output.dense.weight = first.output.dense.weight


def _parametrized(encoder: Any) -> None:
    dense = encoder.model.encoder.layer[0].output.dense
    nn.utils.parametrizations.weight_norm(dense)
    with torch.no_grad():
        dense.parametrizations.weight.original0.mul_(1.5)


def _adapters(encoder: Any) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False), encoder.model)
    encoder.double()


def _around(encoder: Any, make: Callable[[Any, Any], Any]) -> None:
    """peft's own wrapper, which hands calls on to the model within."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    encoder.model = make(peft, encoder.model)
    encoder.double().train()


def _adapters_around(encoder: Any) -> None:
    def make(peft: Any, model: Any) -> Any:
        return peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=2, init_lora_weights=False))

    _around(encoder, make)


def _hooked_adapters_around(encoder: Any) -> None:
    _adapters_around(encoder)
    encoder.model.register_forward_hook(
        lambda module, inputs, output: type(output)(last_hidden_state=2 * output.last_hidden_state)
    )


def _prompts_around(encoder: Any) -> None:
    """A wrapper that does more than hand calls on."""

    def make(peft: Any, model: Any) -> Any:
        return peft.get_peft_model(model, peft.PrefixTuningConfig("FEATURE_EXTRACTION", num_virtual_tokens=2))

    _around(encoder, make)


def _compiled_around(encoder: Any) -> None:
    encoder.model = torch.compile(encoder.model, backend="eager", dynamic=True)


def _one_more_layer(encoder: Any) -> None:
    encoder.model.encoder.layer.append(copy.deepcopy(encoder.model.encoder.layer[0]))


def _frozen_below(encoder: Any) -> None:
    for part in (encoder.model.embeddings, encoder.model.encoder.layer[0]):
        part.requires_grad_(False)


def _all_frozen(encoder: Any) -> None:
    encoder.requires_grad_(False)


def _frozen_here_and_there(encoder: Any) -> None:
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("LayerNorm" not in name and "query" not in name and "word" not in name)


def _checkpointed(encoder: Any) -> None:
    encoder.model.gradient_checkpointing_enable()


def _checkpointed_and_frozen(encoder: Any) -> None:
    _frozen_below(encoder)
    _checkpointed(encoder)


def _averaged_weights_by_data(encoder: Any) -> None:
    for parameter in encoder.parameters():
        parameter.data.copy_(0.5 * parameter.data)


def _other_memory(encoder: Any) -> None:
    for parameter in encoder.parameters():
        parameter.data = 0.5 * parameter.data


CHANGES = (
    _hook_that_scales, _hook_on_the_encoder, _hook_before_the_pooling, _own_forward, _own_forward_of_the_encoder,
    _another_norm, _another_epsilon, _another_scale_of_attention, _another_activation, _another_embedding,
    _another_pooling, _no_bias, _tied_layers, _tied_matrices, _parametrized, _adapters, _adapters_around,
    _hooked_adapters_around, _prompts_around, _compiled_around, _one_more_layer, _frozen_below,
    _all_frozen, _frozen_here_and_there, _checkpointed, _checkpointed_and_frozen, _averaged_weights_by_data,
    _other_memory,
)  # fmt: skip
STAYS_PACKED = {
    _another_epsilon, _another_embedding, _another_pooling, _tied_layers, _tied_matrices, _one_more_layer,
    _frozen_below, _all_frozen, _frozen_here_and_there, _checkpointed, _checkpointed_and_frozen,
    _averaged_weights_by_data, _other_memory,
}  # fmt: skip
WAYS = {
    "single_step": (SingleStep, None),
    "chunked": (SingleStep, SingleStep.Settings(chunk_tokens=40, kept_tokens=40)),
    "multi_step": (MultiStep, MultiStep.Settings(accumulation_steps=2)),
}


def captured(method: type, training: Training, settings: Any) -> Any:
    """What the engine builds on a GPU; its functions are called and not captured on a processor."""
    encoder, ran = choose(training)
    assert isinstance(encoder, PackedEncoder)
    built = fast.build_packed(method, training, settings, encoder)
    built.tier = ran
    return built


def trained(build: Callable[..., Any], way: str, change: Callable[[Any], None], *, first: bool) -> tuple[Any, Training]:
    """Steps before and behind a change of the encoder, or `first` the change; the method and what it trained."""
    training = with_adamw(make_training(make_encoder()), max_grad_norm=0.5)
    if first:
        change(training.encoder)
    method = build(WAYS[way][0], training, WAYS[way][1] or WAYS[way][0].Settings())
    method.step(batch(seed=0))
    method.step(batch(seed=1))
    if not first:
        change(training.encoder)
    for seed in range(2, 6 if way == "multi_step" else 4):
        method.step(batch(seed=seed))
    method.finish()
    return method, training


def left_by(training: Training, method: Any) -> dict[str, Tensor]:
    found = parameters({"encoder": training.encoder, "cf": training.cf_module})
    return found | {"encodings": encode_all(method.training, torch.arange(24))}


@cache
def left_eagerly(way: str, change: Callable[[Any], None], *, first: bool) -> dict[str, Tensor]:
    """What every engine is to leave, once for all of them; in chunks it is the same."""
    method, training = trained(eager.build, "single_step" if way == "chunked" else way, change, first=first)
    return left_by(training, method)


BUILDS = {"launched": fast.build, "captured": captured}
CHANGED = [
    *(
        pytest.param(build, change, way, False, id=f"{name}-{change.__name__}-{way}")
        for row, change in enumerate(CHANGES)
        for column, (name, build) in enumerate(BUILDS.items())
        for way in (sorted(WAYS)[(row + column) % 3],)
    ),
    *(pytest.param(fast.build, change, "single_step", True, id=f"first-{change.__name__}") for change in CHANGES),
]
"""Every change behind set-up by each of the two, each time in another way: every way meets both, and what stays packed
and what doesn't. Then every change before it."""


@pytest.mark.parametrize(("build", "change", "way", "first"), CHANGED)
def test_a_changed_model_trains_as_eagerly(
    build: Callable[..., Any], change: Callable[[Any], None], way: str, first: bool
) -> None:
    """What the pass was built on would go on to be trained, or graphs go on to read what nobody else does."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        method, found = trained(build, way, change, first=first)
    expected = left_eagerly(way, change, first=first)
    assert max(relative_errors(left_by(found, method), expected).values()) <= 1e-10
    fell = [str(warning.message) for warning in told if warning.category is FallBack]
    assert (method.tier.tier == "packed") is (change in STAYS_PACKED)
    assert len(fell) == (change not in STAYS_PACKED), "said once, and only where there is something to say"
    assert first or all("changed since it was set up" in sentence for sentence in fell)


def test_a_forward_of_the_librarys_class_that_is_replaced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    training = make_training(make_encoder())
    encoder, ran = choose(training)
    assert ran.tier == "packed"
    kind = type(training.encoder.model.encoder.layer[0].output)
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *args: 2 * own(self, *args))
    with pytest.warns(FallBack, match="differ"):
        found = encoder(training.table.texts(torch.arange(5)))
    torch.testing.assert_close(found, training.encoder(training.table.texts(torch.arange(5))))


def test_dropout_that_begins_to_act_is_told_and_acts() -> None:
    """A model as `from_pretrained` hands it over is evaluated: its dropout does not act until somebody trains it."""
    encoder = make_encoder(dropout=0.1)
    encoder.model.eval()
    training = make_training(encoder)
    packed, ran = choose(training)
    assert ran.tier == "packed"
    assert not packed.draws_random_numbers
    encoder.train()
    texts = training.table.texts(torch.arange(5))
    with pytest.warns(FallBack, match="dropout"):
        first = packed(texts)
    assert packed.draws_random_numbers
    assert not torch.equal(first, packed(texts))
    encoder.model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(packed(texts), packed(texts))
    assert ran.tier == "packed", "it is as it was, so that the fastest tier holds again"


def test_frozen_layers_are_neither_kept_nor_computed_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    from gram_core.encoders import _packed_pass

    backward, kept = [], []
    own_backward, own_forward = _packed_pass._layer_backward, _packed_pass.forward
    monkeypatch.setattr(
        _packed_pass, "_layer_backward", lambda *args, **kwargs: backward.append(1) or own_backward(*args, **kwargs)
    )

    def forward(*args: Any, **kwargs: Any) -> Any:
        states, of_pass = own_forward(*args, **kwargs)
        kept.append([] if of_pass is None else list(of_pass.layers))
        return states, of_pass

    monkeypatch.setattr("gram_core.encoders.packed.forward", forward)
    encoder = make_encoder()
    texts = make_table().texts(torch.arange(9))
    for change, layers, recomputed in ((lambda _: None, 2, 0), (_frozen_below, 1, 0), (_checkpointed, 1, 1)):
        change(encoder)
        backward.clear()
        PackedEncoder(encoder)(texts).sum().backward()
        assert len(backward) == len(kept[-1]) == layers
        assert sum(isinstance(of_layer, Tensor) for of_layer in kept[-1]) == recomputed
    encoder.requires_grad_(False)
    assert not PackedEncoder(encoder)(texts).requires_grad
    assert kept[-1] == []


def test_float16_is_computed_in_float16() -> None:
    """Packed it would be computed in float32, unsaid."""
    training = make_training(make_encoder().float(), amp_dtype=torch.float16)
    training.cf_module.float()
    with pytest.warns(FallBack, match="float16"):
        method = fast.build(SingleStep, training, None)
    texts = training.table.texts(torch.arange(5))
    with torch.no_grad(), training.autocast():
        found, expected = method.training.encoder(texts), training.encoder(texts)
    assert torch.equal(found, expected)
    assert not torch.equal(found, training.encoder(texts))


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16])
def test_a_right_pass_is_proved_and_a_wrong_one_is_not(amp_dtype: torch.dtype | None) -> None:
    encoder = make_encoder().float()
    texts = few_texts(make_table(), encoder.text_length)
    assert texts is not None
    assert len(set(texts.lengths.tolist())) > 2
    tier = _tiers.TIERS[0]
    built = tier.build(encoder, amp_dtype)
    assert tier.differs(built, texts, amp_dtype) is None
    alone = built.alone()
    wrong = {
        "encodings differ": lambda texts: alone.encode(alone.pack(texts)) * 1.5,
        "gradient": lambda texts: alone.encode(alone.pack(texts)).detach().requires_grad_(),
        "fails": lambda texts: alone.encode(None),
        "the gradient of": lambda texts: _with_gradient_of_twice(alone.encode(alone.pack(texts))),
    }
    for reason, encode in wrong.items():
        assert reason in (differs(encode, encoder, encoder, texts, amp_dtype) or "")
    assert all(parameter.grad is None for parameter in encoder.parameters())


def _with_gradient_of_twice(encodings: Tensor) -> Tensor:
    return 2 * encodings - encodings.detach()


def test_a_proof_draws_no_random_numbers_and_leaves_modes_alone() -> None:
    encoder = make_encoder(dropout=0.1)
    modes = [module.training for module in encoder.modules()]
    training = make_training(encoder)
    before = torch.random.get_rng_state()
    with pytest.warns(FallBack, match="dropout"):
        choose(training)
    assert [module.training for module in encoder.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_in_ever_new_states_is_not_proved_for_ever() -> None:
    training = make_training(make_encoder())
    packed, ran = choose(training)
    texts = training.table.texts(torch.arange(3))
    proofs = []
    prove, packed.watch._prove = packed.watch._prove, lambda: proofs.append(1) or prove()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for number in range(2 * MOST_STATES):
            training.encoder.model.config.note = number
            packed(texts)
    assert ["another one in every step" in str(warning.message) for warning in told] == [True]
    assert len(proofs) < MOST_STATES
    assert ran.tier == "as given"


def test_looking_at_a_model_takes_less_than_a_launched_layer() -> None:
    state = ModuleState(make_encoder())
    assert state.is_now()
    runs = Timer("state.is_now()", globals={"state": state}).blocked_autorange(min_run_time=0.05)
    assert runs.median < 2e-3


@pytest.mark.parametrize("width", [256, 768, 4096])
def test_a_gpu_is_given_several_runs_only_where_none_is_smaller_than_its_launches(width: int) -> None:
    """Launches take their time whatever is computed: runs of a few texts each were slower than one padded batch."""
    encoder = make_encoder()
    launches = on_gpu(0, width)
    cut = BucketedEncoder(encoder, cost=lambda tokens: on_gpu(tokens, width))
    generator = torch.Generator().manual_seed(0)
    for texts in (1, 110, 1760, 60_000):
        lengths = torch.randint(3, 129, (texts,), generator=generator)
        order, bounds = cut._runs(lengths)
        computed = [int(lengths[order[start:stop]].max()) * (stop - start) for start, stop in bounds]
        one = max(launches, int(lengths.max()) * texts)
        assert sum(max(launches * 8 // 9, tokens) for tokens in computed) <= one
        if one > 8 * launches:
            assert len(bounds) > 1, "padding is saved where there is enough of it"


def test_a_pretrained_models_idle_dropout_is_told_and_nothing_else_is(recwarn: pytest.WarningsRecorder) -> None:
    encoder = make_encoder(dropout=0.1)
    make_training(encoder)
    make_training(encoder.eval())
    make_training(make_encoder().train())
    assert not recwarn.list
    encoder.train()
    encoder.model.eval()
    with pytest.warns(IdleDropout, match=r"encoder\.train\(\)"):
        make_training(encoder)
