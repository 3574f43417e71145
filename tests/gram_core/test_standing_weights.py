"""Weights that stand in the compute dtype train as weights that are cast for every pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from gram_core.encoders.packed import PackedEncoder
from gram_core.encoders.standing import StandingWeights, can_stand
from gram_core.engines import fast
from gram_core.engines._captured_methods import CapturedMultiStep, CapturedStep
from gram_core.evaluation import encode_all
from gram_core.exactness import parameters, relative_errors
from gram_core.methods.multi_step import MultiStep
from gram_core.methods.single_step import SingleStep
from gram_core.training import Training
from tests.gram_core._models import make_encoder, make_training, with_adamw
from tests.gram_core.test_fast_engine import batch

METHODS = {"single_step": (SingleStep, None), "multi_step": (MultiStep, MultiStep.Settings(accumulation_steps=2))}


def training_in_float32(max_grad_norm: float | None = None) -> Training:
    training = make_training(make_encoder())
    training.encoder.float()
    training.cf_module.float()
    return with_adamw(training, max_grad_norm=max_grad_norm)


def built(name: str, training: Training) -> CapturedStep | CapturedMultiStep:
    method, settings = METHODS[name]
    return fast.build_packed(method, training, settings, PackedEncoder(training.encoder, torch.bfloat16))


def moved(name: str, *, stands: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    training = training_in_float32()
    with monkeypatch.context() as patch:
        if not stands:
            patch.setattr("gram_core.engines._capturable.can_stand", lambda *_: False)
        method = built(name, training)
    assert (method._standing is not None) is stands
    for seed in range(5):
        method.step(batch(seed=seed))
        if seed == 2:  # somebody loads other weights: they must be seen
            with torch.no_grad():
                for parameter in training.encoder.parameters():
                    parameter.mul_(1.01)
    method.finish()
    return parameters({"encoder": training.encoder, "cf": training.cf_module})


@pytest.mark.parametrize("name", sorted(METHODS))
def test_standing_weights_train_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = moved(name, stands=True, monkeypatch=monkeypatch)
    expected = moved(name, stands=False, monkeypatch=monkeypatch)
    untouched = training_in_float32()
    start = parameters({"encoder": untouched.encoder, "cf": untouched.cf_module})
    assert max(relative_errors(found, expected).values()) <= 1e-4
    assert max(relative_errors(start, expected).values()) >= 1e-2, "nothing moved, so nothing was shown"


def test_loaded_state_is_followed() -> None:
    """A checkpoint replaces the optimizer's state; the next step goes on from there."""
    first = training_in_float32()
    method = built("single_step", first)
    method.step(batch(seed=0))
    saved = copy.deepcopy(
        (first.encoder.state_dict(), first.cf_module.state_dict(), first.optimization.encoder_optimizer.state_dict())
    )
    saved_cf = copy.deepcopy(first.optimization.cf_optimizer.state_dict())
    method.step(batch(seed=1))
    second = training_in_float32()
    resumed = built("single_step", second)
    resumed.step(batch(seed=5))
    second.encoder.load_state_dict(saved[0])
    second.cf_module.load_state_dict(saved[1])
    second.optimization.encoder_optimizer.load_state_dict(saved[2])
    second.optimization.cf_optimizer.load_state_dict(saved_cf)
    resumed.step(batch(seed=1))
    errors = relative_errors(parameters({"e": second.encoder}), parameters({"e": first.encoder}))
    assert max(errors.values()) <= 1e-6


def test_weights_changed_from_outside_are_seen_without_a_step() -> None:
    """Whoever scores after a checkpoint was loaded must not read what stood there before."""
    training = training_in_float32()
    method = built("single_step", training)
    method.step(batch(seed=0))
    texts = training.table.texts(torch.arange(5))
    with torch.no_grad():
        before = method.training.encoder(texts)
        for parameter in training.encoder.parameters():
            parameter.mul_(0.5)
        after = method.training.encoder(texts)
        expected = PackedEncoder(training.encoder, torch.bfloat16)(texts)
    assert torch.equal(after, expected)
    assert not torch.equal(after, before)


def test_only_plain_adamw_on_all_weights_can_stand() -> None:
    training = training_in_float32()
    weights = PackedEncoder(training.encoder).weights
    assert can_stand(training.optimization, weights.parameters())
    assert not can_stand(training_in_float32(max_grad_norm=1.0).optimization, weights.parameters())
    assert not can_stand(training_in_float32().optimization, weights.parameters()), "an optimizer of other parameters"
    frozen = weights.layers[0].norm.weight
    frozen.requires_grad_(False)
    assert not can_stand(training.optimization, weights.parameters()), "AdamW leaves a frozen parameter where it is"
    frozen.requires_grad_(True)
    training.optimization.encoder_optimizer = torch.optim.SGD(training.encoder.parameters())
    assert not can_stand(training.optimization, weights.parameters())


def test_copies_follow_what_another_method_moved() -> None:
    """A kernel or a graph writes parameters unseen by autograd, as `.data` does: who moved them has to say so."""
    weights = PackedEncoder(training_in_float32().encoder).weights
    one, other = (StandingWeights(weights, torch.bfloat16) for _ in range(2))
    for standing in (one, other):
        standing.refresh()
    before = [matrix.clone() for matrix, _ in other.joined]
    for parameter in weights.parameters():
        parameter.data.mul_(2.0)
    other.refresh()
    assert all(torch.equal(matrix, old) for (matrix, _), old in zip(other.joined, before, strict=True)), "unseen"
    one.moved()
    for standing in (one, other):
        standing.refresh()
    assert all(torch.equal(matrix, 2 * old) for (matrix, _), old in zip(other.joined, before, strict=True))
    assert all(torch.equal(matrix, old) for (matrix, _), old in zip(one.joined, before, strict=True)), (
        "whoever moved them has moved its own copies, which are not made again"
    )


def swapped(training: Training) -> None:
    """What an average of weights does: it leaves no trace on the parameters."""
    for parameter in training.encoder.parameters():
        parameter.data.copy_(0.5 * parameter.data)


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("scores", [False, True])
def test_weights_written_through_their_data_are_seen(name: str, scores: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next step, and by who encodes meanwhile."""
    found = {}
    for stands in (True, False):
        training = training_in_float32()
        with monkeypatch.context() as patch:
            if not stands:
                patch.setattr("gram_core.engines._capturable.can_stand", lambda *_: False)
            method = built(name, training)
        assert (method._standing is not None) is stands
        for seed in range(2):
            method.step(batch(seed=seed))
        swapped(training)
        encodings = encode_all(method.training, torch.arange(24)) if scores else None
        for seed in range(2, 4):
            method.step(batch(seed=seed))
        method.finish()
        found[stands] = parameters({"encoder": training.encoder, "cf": training.cf_module})
        if encodings is not None:
            found[stands]["encodings"] = encodings
    assert max(relative_errors(found[True], found[False]).values()) <= 1e-4


def test_averaged_weights_swapped_in_and_out_around_a_score_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual evaluation of an average; written through memory that was taken before, which nothing can see."""
    texts = training_in_float32().table.texts(torch.arange(24))
    found = {}
    for swaps in (False, True):
        training = training_in_float32()
        taken = [parameter.data for parameter in training.encoder.parameters()]
        method = built("single_step", training)
        method.step(batch(seed=0))
        if swaps:
            own = [parameter.detach().clone() for parameter in training.encoder.parameters()]
            with torch.no_grad():
                before = method.training.encoder(texts)
                for place, weight in zip(taken, own, strict=True):
                    place.copy_(0.5 * weight)
                averaged = method.training.encoder(texts)
                for place, weight in zip(taken, own, strict=True):
                    place.copy_(weight)
            assert not torch.equal(averaged, before)
        method.step(batch(seed=1))
        found[swaps] = parameters({"encoder": training.encoder})
    assert max(relative_errors(found[True], found[False]).values()) <= 1e-12


def test_parameters_that_share_weights_or_have_hooks_do_not_stand() -> None:
    for change in (_tied, _hooked):
        training = training_in_float32()
        change(training.encoder.model)
        with_adamw(training)
        assert not can_stand(training.optimization, PackedEncoder(training.encoder).weights.parameters())


def _tied(model: Any) -> None:
    model.encoder.layer[1].output.dense.weight = model.encoder.layer[0].output.dense.weight


def _hooked(model: Any) -> None:
    model.encoder.layer[1].output.dense.weight.register_hook(lambda gradient: 2 * gradient)
