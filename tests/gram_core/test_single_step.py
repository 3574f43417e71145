"""Mathematics 2: back-propagating the encoding gradient is the literal pseudo-loss, its half included."""

import pytest
import torch

from gram_core.batch import unique_items
from gram_core.exactness import gradients, relative_errors, total_norm
from gram_core.methods.multi_step import pseudo_loss
from gram_core.training import gather_slots
from tests.gram_core import _models as m


def gradients_of(encoder):
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def phases(family, cf_module):
    """(training, items, h [U, d] with a graph, dL/dh [U, d]): phases 1 and 2 in plain autograd."""
    training = m.make_training(m.make_encoder(family, "attention"), cf_module)
    batch = m.make_batch(m.CF_MODULES[cf_module].task)
    selection = unique_items(batch)
    encodings = training.encode(selection.items)
    leaf = encodings.detach().requires_grad_()
    torch.manual_seed(0)
    training.loss(gather_slots(leaf, selection.slot_rows), batch).backward()
    return training, selection.items, encodings, leaf.grad


@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.parametrize("cf_module", m.CF_MODULES)
def test_the_literal_pseudo_loss_gives_the_gradient_that_single_step_leaves(family, cf_module):
    """Eq. 9 as printed: half the squared distance to h - dL/dh, summed over items, with the target detached."""
    training, items, encodings, gradient = phases(family, cf_module)
    target = (encodings - gradient).detach()
    loss = 0.5 * ((target - training.encode(items)) ** 2).sum()
    loss.backward()
    literal = gradients_of(training.encoder)
    assert total_norm(literal.values()) > 1e-3

    training.encoder.zero_grad()
    encodings.backward(gradient)
    assert max(relative_errors(gradients_of(training.encoder), literal).values()) <= 1e-10

    batch = m.make_batch(m.CF_MODULES[cf_module].task)
    found = m.step_gradients("single_step", training, batch)
    found = {name.removeprefix("encoder."): value for name, value in found.items() if name.startswith("encoder.")}
    assert max(relative_errors(found, literal).values()) <= 1e-10

    training.encoder.zero_grad()
    pseudo_loss(training.encode(items), encodings, -gradient).backward()
    assert max(relative_errors(gradients_of(training.encoder), literal).values()) <= 1e-10


def test_encodings_with_a_graph_of_their_own_give_the_same_gradients():
    """What an engine that encodes by other means hands to the method."""
    training = m.make_training()
    batch = m.make_batch()
    expected = m.step_gradients("single_step", training, batch)
    selection = unique_items(batch)
    training.encoder.zero_grad(), training.cf_module.zero_grad()
    method = m.METHODS["single_step"](training)
    method.backpropagate(training.encode(selection.items), training.gather(selection.slot_rows), batch)
    found = gradients(m.modules_of(training))
    assert max(relative_errors(found, expected).values()) <= 1e-10


@pytest.mark.parametrize("slip", ["no half", "a mean"])
def test_another_scale_of_the_pseudo_loss_scales_the_gradient(slip):
    """And the comparison notices: the half in Eq. 9 matters as much as that it is a sum."""
    training, items, encodings, gradient = phases("bert", "nrms")
    squares = ((encodings - gradient).detach() - training.encode(items)) ** 2
    wrong, times = (squares.sum(), 2) if slip == "no half" else (0.5 * squares.mean(), 1 / squares.numel())
    wrong.backward()
    found = gradients_of(training.encoder)
    training.encoder.zero_grad()
    encodings.backward(gradient)
    expected = gradients_of(training.encoder)
    assert max(relative_errors(found, {n: times * g for n, g in expected.items()}).values()) <= 1e-10
    assert max(relative_errors(found, expected).values()) == pytest.approx(abs(times - 1))


def test_a_pseudo_target_that_is_not_detached_changes_the_gradient():
    """Its own graph would cancel the encoder's."""
    training, items, _, gradient = phases("bert", "nrms")
    again = training.encode(items)
    (0.5 * ((again - gradient - again) ** 2).sum()).backward()
    assert total_norm(gradients_of(training.encoder).values()) < 1e-9


def test_pseudo_loss_keeps_the_digits_of_tiny_displacements_in_float32():
    """A displacement of 1e-6 beside an encoding of 1 would lose all but one digit in their float32 sum."""
    torch.manual_seed(0)
    encoded = torch.randn(50, 16)
    displacement = 1e-6 * torch.randn(50, 16)
    encodings = encoded.clone().requires_grad_()
    pseudo_loss(encodings, encoded, displacement).backward()
    assert float((encodings.grad + displacement).norm() / displacement.norm()) < 1e-6
