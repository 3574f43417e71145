"""CF modules of response prediction, over the registry: no peeking, no trace of padding, a mean over slots."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gram_core.batch import Batch
from gram_core.response import positions, ranks
from tests.gram_core._models import CF_MODULES, make_cf_module

WIDTH, USERS, SLOTS = 16, 3, 6
RESPONSE = sorted(name for name, module in CF_MODULES.items() if module.task == "response")


def made(name: str):
    generator = torch.Generator().manual_seed(7)
    encodings = torch.randn(USERS, SLOTS, WIDTH, generator=generator, dtype=torch.float64)
    responses = (torch.rand(USERS, SLOTS, generator=generator) < 0.5).double()
    mask = torch.ones(USERS, SLOTS, dtype=torch.bool)
    return make_cf_module(name, WIDTH).eval(), encodings, Batch(torch.zeros_like(mask).long(), mask, responses, SLOTS)


def with_responses(batch: Batch, user: int, slot: int) -> Batch:
    responses = batch.targets.clone()
    responses[user, slot] = 1 - responses[user, slot]
    return Batch(batch.items, batch.mask, responses, batch.history_length)


def test_there_are_such_modules():
    assert {"dkt", "sakt"} <= set(RESPONSE)


@pytest.mark.parametrize("name", RESPONSE)
@pytest.mark.parametrize("slot", [0, 2, SLOTS - 1])
def test_a_response_is_seen_by_later_slots_of_its_user_only(name, slot):
    module, encodings, batch = made(name)
    changed = module.scores(encodings, batch) != module.scores(encodings, with_responses(batch, 1, slot))
    expected = torch.zeros(USERS, SLOTS, dtype=torch.bool)
    expected[1, slot + 1 :] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("name", RESPONSE)
def test_an_item_is_seen_by_its_own_slot_and_later_ones(name):
    module, encodings, batch = made(name)
    other = encodings.clone()
    other[1, 3] += 0.5
    changed = module.scores(encodings, batch) != module.scores(other, batch)
    expected = torch.zeros(USERS, SLOTS, dtype=torch.bool)
    expected[1, 3:] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("name", RESPONSE)
@pytest.mark.parametrize("places", [[3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5], [0, 2, 3, 6, 7, 8]], ids=str)
def test_scores_do_not_depend_on_where_padding_is(name, places):
    module, encodings, batch = made(name)
    wide = torch.zeros(USERS, 9, WIDTH, dtype=torch.float64)
    mask = torch.zeros(USERS, 9, dtype=torch.bool)
    responses = torch.ones(USERS, 9, dtype=torch.float64)  # a padding slot's must not matter
    wide[:, places], mask[:, places], responses[:, places] = encodings, True, batch.targets
    padded = Batch(torch.zeros(USERS, 9, dtype=torch.int64), mask, responses, 9)
    assert torch.allclose(module.scores(wide, padded)[:, places], module.scores(encodings, batch), atol=1e-12)
    assert torch.allclose(module.loss(wide, padded), module.loss(encodings, batch), atol=1e-12)


@pytest.mark.parametrize("name", RESPONSE)
def test_the_loss_is_the_mean_cross_entropy_of_the_slots_that_hold_an_item(name):
    module, encodings, batch = made(name)
    mask = batch.mask.clone()
    mask[0, 2:] = mask[2] = False
    masked = Batch(batch.items, mask, batch.targets, SLOTS)
    chance = torch.sigmoid(module.scores(encodings, masked))[mask]
    expected = F.binary_cross_entropy(chance, batch.targets[mask])
    assert torch.allclose(module.loss(encodings, masked), expected)


@pytest.mark.parametrize("name", RESPONSE)
def test_a_loss_in_float64_keeps_its_digits_where_responses_are_float32(name):
    module, encodings, batch = made(name)
    narrow = Batch(batch.items, batch.mask, batch.targets.float(), SLOTS)
    assert module.loss(encodings, narrow).dtype == torch.float64
    assert torch.equal(module.loss(encodings, narrow), module.loss(encodings, batch))


@pytest.mark.parametrize("name", RESPONSE)
def test_a_batch_without_items_has_a_loss_of_zero(name):
    module, encodings, batch = made(name)
    empty = Batch(batch.items, torch.zeros_like(batch.mask), batch.targets, SLOTS)
    assert module.loss(encodings, empty).item() == 0.0


@pytest.mark.parametrize("name", RESPONSE)
def test_gradients_are_those_of_the_loss_wherever_padding_is(name):
    module, encodings, batch = made(name)
    mask = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]).bool()
    batch = Batch(batch.items, mask, batch.targets, SLOTS)
    assert torch.autograd.gradcheck(lambda rows: module.loss(rows, batch), encodings.requires_grad_())


@pytest.mark.parametrize("name", RESPONSE)
def test_one_slot_has_a_score_and_a_gradient(name):
    module, encodings, batch = made(name)
    one = Batch(batch.items[:, :1], batch.mask[:, :1], batch.targets[:, :1], 1)
    rows = encodings[:, :1].clone().requires_grad_()
    assert torch.allclose(module.scores(rows, one), module.scores(encodings, batch)[:, :1])
    module.loss(rows, one).backward()
    assert rows.grad.abs().sum() > 0


def test_dkt_reads_item_correctness_and_position_side_by_side():
    """What it reads, written out: the linear layer of all three features, one place later, zeros first."""
    module, encodings, batch = made("dkt")
    answered = module.responses((batch.targets > 0.5).long())
    places = positions(ranks(batch.mask), encodings.dtype, WIDTH)
    read = module.inputs(torch.cat([encodings, answered, places], dim=-1))
    states, _ = module.recurrent(torch.cat([torch.zeros_like(read[:, :1]), read[:, :-1]], dim=1).transpose(0, 1))
    expected = (module.queries(states.transpose(0, 1)) * encodings).sum(-1)
    assert torch.allclose(module.scores(encodings, batch), expected, atol=1e-12)


@pytest.mark.parametrize("name", RESPONSE)
def test_widths_that_do_not_fit_are_refused_by_a_sentence(name):
    encodings = torch.randn(1, 2, 15)
    batch = Batch(torch.zeros(1, 2).long(), torch.ones(1, 2).bool(), torch.ones(1, 2), 2)
    with pytest.raises(ValueError, match="even width"):
        CF_MODULES[name](15).loss(encodings, batch)


def test_ranks_count_real_slots():
    mask = torch.tensor([[False, True, False, True], [True, True, True, False]])
    assert ranks(mask).tolist() == [[-1, 0, -1, 1], [0, 1, 2, -1]]
