"""NRMS: padded slots have no influence, empty histories no NaN."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from gram_core.attention import AdditiveAttention
from gram_core.batch import Batch
from gram_core.cf_modules.nrms import NRMS
from tests.gram_core import _models as m
from tests.gram_core import _strategies as strategies

WIDTH = 32


def slots_for(batch, seed=0):
    torch.manual_seed(seed)
    return torch.randn(*batch.items.shape, WIDTH, dtype=torch.float64)


def make():
    return m.make_cf_module("nrms", WIDTH)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="16 heads divide, not 40"):
        NRMS(40)
    assert NRMS(40, heads=8).heads == 8


@settings(max_examples=30)
@given(batch=strategies.batches("ranking"), noise=st.sampled_from([1.0, 1e6]))
def test_padded_slots_influence_nothing(batch, noise):
    """Neither the loss, nor the shown scores, nor any gradient."""
    module, slots = make(), slots_for(batch)
    there = batch.mask[..., None]
    results = []
    for padding in (torch.zeros_like(slots), noise * slots_for(batch, seed=1)):
        given_slots = torch.where(there, slots, padding).requires_grad_()
        module.zero_grad()
        loss = module.loss(given_slots, batch)
        loss.backward()
        shown = batch.mask[:, batch.history_length :]
        scores = module.scores(given_slots, batch)[shown].detach()
        gradients = [parameter.grad.clone() for parameter in module.parameters()]
        results.append([loss.detach(), scores, torch.where(there, given_slots.grad, 0), *gradients])
        assert (given_slots.grad.masked_select(~there) == 0).all()
    for found, expected in zip(*results, strict=True):
        assert torch.isfinite(expected).all()
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_an_empty_history_gives_a_zero_user_vector_and_finite_gradients():
    module = make()
    history = torch.randn(2, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, True, True], [False] * 4])
    users = module.user_vectors(history, mask)
    assert users[1].eq(0).all()
    assert users[0].abs().sum() > 0
    users.square().sum().backward()
    assert torch.isfinite(history.grad).all()
    assert history.grad[1].eq(0).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


def test_a_batch_of_empty_histories_has_the_loss_of_chance():
    batch = m.make_batch()
    mask = batch.mask.clone()
    mask[:, : batch.history_length] = False
    mask[:, batch.history_length :] = True
    empty = Batch(batch.items, mask, batch.targets, batch.history_length)
    loss = make().loss(slots_for(empty), empty)
    assert float(loss.detach()) == pytest.approx(torch.log(torch.tensor(float(m.CANDIDATES))).item())


def test_candidates_that_are_not_shown_take_no_share_of_the_probability():
    batch = m.make_batch()
    batch.mask[:, batch.history_length :] = False
    batch.mask[torch.arange(batch.users), batch.history_length + batch.targets] = True
    assert float(make().loss(slots_for(batch), batch).detach()) == pytest.approx(0, abs=1e-12)


def test_a_users_scores_do_not_depend_on_the_other_users():
    batch, module = m.make_batch(), make()
    slots = slots_for(batch)
    whole = module.scores(slots, batch)
    for user in range(batch.users):
        alone = Batch(*(part[user : user + 1] for part in (batch.items, batch.mask, batch.targets)), m.HISTORY)
        assert torch.allclose(module.scores(slots[user : user + 1], alone)[0], whole[user], atol=1e-12)


@given(seed=st.integers(0, 99), masked=st.lists(st.booleans(), min_size=1, max_size=6))
def test_additive_attention_is_a_weighted_mean_over_what_the_mask_shows(seed, masked):
    torch.manual_seed(seed)
    attention = AdditiveAttention(4, 8).double()
    rows, mask = torch.randn(1, len(masked), 4, dtype=torch.float64), torch.tensor([masked])
    found = attention(rows, mask)[0]
    seen = rows[mask]
    if not len(seen):
        assert found.eq(0).all()
        return
    logits = torch.tanh(seen @ attention.project.weight.T + attention.project.bias) @ attention.query.weight[0]
    weights = logits.exp() / logits.exp().sum()
    assert torch.allclose(found, (weights[:, None] * seen).sum(0), atol=1e-12)
