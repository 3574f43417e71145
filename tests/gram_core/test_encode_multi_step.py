"""`MultiStepEncodings`: with N = 1 the gradient of `encode`, with more the plain loop of Alg. 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gram_core import MultiStepEncodings
from gram_core.exactness import gradients, parameters, relative_errors
from tests.gram_core import _own_loop as loop


@pytest.mark.parametrize("chunk", [None, 3])
def test_one_step_leaves_the_naive_loops_gradient(chunk):
    model, tower = loop.text_model(), loop.tower()
    targets = MultiStepEncodings(loop.Counting(model), Tensor.backward, accumulation_steps=1, chunk=chunk)
    tower(*targets.encode(*loop.batch())).backward()
    targets.step()
    assert loop.error(model, tower, loop.naive_gradients()) < 1e-10
    assert targets.items_touched == 0


def test_several_calls_and_several_backwards_before_a_step():
    """Gradient accumulation: two batches' losses, one of them back-propagated user by user, one step."""
    model, tower = loop.text_model(), loop.tower()
    targets = MultiStepEncodings(loop.Counting(model), Tensor.backward, accumulation_steps=1)
    tower(*targets.encode(*loop.batch(0))).backward()
    history, candidates = targets.encode(*loop.batch(1))
    for h, c in zip(history, candidates, strict=True):
        tower(h[None], c[None]).backward()
    targets.step()
    other, other_tower = loop.text_model(), loop.tower()
    other_tower(*(loop.naive(other, ids) for ids in loop.batch(0))).backward()
    rows = [loop.naive(other, ids) for ids in loop.batch(1)]
    sum(other_tower(h[None], c[None]) for h, c in zip(*rows, strict=True)).backward()
    assert loop.error(model, tower, gradients({"encoder": other, "tower": other_tower})) < 1e-10


@pytest.mark.parametrize(("ce_batch", "ce_passes", "rate"), [(None, 1, 1.0), (4, 2, 0.5), (100, 1, 2.0)])
def test_intervals_are_the_plain_loop_of_the_paper(ce_batch, ce_passes, rate):
    """Three steps an interval, four in all, `finish`: parameters equal those of Alg. 1 written item by item."""
    model, tower = loop.text_model(), loop.tower()
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.05) for module in (model, tower)]
    targets = MultiStepEncodings(
        loop.Counting(model),
        optimizers[0],
        accumulation_steps=3,
        ce_batch=ce_batch,
        ce_passes=ce_passes,
        pseudo_target_rate=rate,
    )
    for seed in range(4):
        tower(*targets.encode(*loop.batch(seed))).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
        targets.step()
    assert targets.items_touched > 0
    targets.finish()
    assert targets.items_touched == 0

    plain, plain_tower = loop.text_model(), loop.tower()
    for interval in (range(3), range(3, 4)):
        moved: dict[int, Tensor] = {}
        for seed in interval:
            ids = loop.batch(seed)
            for item in sorted({i for part in ids for i in part.flatten().tolist()} - {-1}):
                if item not in moved:
                    moved[item] = loop.every_id(plain, torch.tensor([item]))[0].detach()
            leaves = {item: row.clone().requires_grad_() for item, row in moved.items()} | {-1: torch.zeros(loop.WIDTH)}
            slots = [torch.stack([torch.stack([leaves[i] for i in row]) for row in part.tolist()]) for part in ids]
            loss = plain_tower(*slots)
            loss.backward()
            with torch.no_grad():
                for p in plain_tower.parameters():
                    p -= 0.05 * p.grad
                    p.grad = None
                for item in moved:
                    if leaves[item].grad is not None:
                        moved[item] = moved[item] - rate * leaves[item].grad
        items = torch.tensor(list(moved))
        if ce_batch is None:
            parts = items.tensor_split(len(interval))
        else:
            count = -(-len(items) // ce_batch)
            parts = items.split(-(-len(items) // count))
        for part in parts * ce_passes:
            wanted = torch.stack([moved[i] for i in part.tolist()])
            (0.5 * (wanted - loop.every_id(plain, part)).square().sum()).backward()
            with torch.no_grad():
                for p in plain.parameters():
                    if p.grad is not None:
                        p -= 0.05 * p.grad
                        p.grad = None
    found = parameters({"encoder": model, "tower": tower})
    assert max(relative_errors(found, parameters({"encoder": plain, "tower": plain_tower})).values()) < 1e-10
    before = parameters({"encoder": loop.text_model(), "tower": loop.tower()})
    assert max(relative_errors(found, before).values()) > 1e-4


def test_a_frozen_encoder_leaves_the_rest_to_learn():
    model, tower = loop.text_model().requires_grad_(False), loop.tower()
    targets = MultiStepEncodings(loop.Counting(model), Tensor.backward, accumulation_steps=1)
    tower(*targets.encode(*loop.batch())).backward()
    targets.step()
    expected = {name: value for name, value in loop.naive_gradients().items() if name.startswith("tower")}
    assert max(relative_errors(gradients({"tower": tower}), expected).values()) < 1e-10


def test_items_are_encoded_when_first_met():
    encoder = loop.Counting(loop.text_model())
    targets = MultiStepEncodings(encoder, Tensor.backward, accumulation_steps=5)
    for ids in ([3, 4, -1], [4, 5], [3, 5]):
        targets.encode(torch.tensor(ids)).sum().backward()
        targets.step()
    assert encoder.calls == [[3, 4], [5]]


def test_a_scale_is_taken_out_and_what_overflowed_moves_nothing():
    table = torch.ones(4, 2)
    targets = MultiStepEncodings(lambda ids: table[ids], lambda loss: None, accumulation_steps=5)
    ids = torch.tensor([1, 2])
    (targets.encode(ids).sum() * 1024).backward()
    targets.step(scale=1024)
    assert targets.encode(ids).tolist() == [[0, 0], [0, 0]]
    (targets.encode(ids).sum() * torch.inf).backward()
    targets.step(scale=1024)
    assert targets.encode(ids).tolist() == [[0, 0], [0, 0]]


def test_small_moves_of_a_half_precision_encoder_add_up():
    """256 moves of 2^-12, each below the rounding of bfloat16 near 1, are one of 2^-4."""
    table = torch.ones(2, 1, dtype=torch.bfloat16)
    targets = MultiStepEncodings(lambda ids: table[ids], lambda loss: None, accumulation_steps=1000)
    for _ in range(256):
        (targets.encode(torch.tensor([1])) * 2.0**-12).sum().backward()
        targets.step()
    moved = targets.encode(torch.tensor([1]))
    assert moved.dtype == torch.bfloat16
    assert moved.item() == 1 - 2.0**-4


def test_the_encoder_learns_in_the_precision_that_it_encoded_in():
    """step() encodes under the autocast of encode(), wherever it is called itself."""
    dtypes = []
    linear = torch.nn.Linear(2, 2)

    def encoder(ids):
        rows = linear(torch.ones(len(ids), 2))
        dtypes.append(rows.dtype)
        return rows

    targets = MultiStepEncodings(encoder, Tensor.backward, accumulation_steps=1)
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            rows = targets.encode(torch.tensor([1]))
        with torch.autocast("cpu", torch.bfloat16, enabled=not enabled):
            rows.sum().backward()
            targets.step()
    assert dtypes == [torch.bfloat16] * 2 + [torch.float32] * 2


@pytest.mark.parametrize("settings", [{"accumulation_steps": 0}, {"ce_passes": 0}, {"pseudo_target_rate": 0.0}])
def test_settings_that_are_none_are_named(settings):
    with pytest.raises(ValueError, match="must be at least 1"):
        MultiStepEncodings(lambda ids: ids, Tensor.backward, **settings)


def test_a_step_without_gradients_and_encoding_without_them_are_errors():
    targets = MultiStepEncodings(lambda ids: torch.ones(len(ids), 2), Tensor.backward)
    with pytest.raises(RuntimeError, match="call backward on the loss before"):
        targets.step()
    targets.encode(torch.tensor([1]))
    with pytest.raises(RuntimeError, match="call backward on the loss before"):
        targets.step()
    with torch.no_grad(), pytest.raises(RuntimeError, match="evaluate with encode"):
        targets.encode(torch.tensor([1]))
