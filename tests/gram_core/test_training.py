"""Optimization, autocast, and what each method sends through the encoder."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bench.methods import Unavailable
from gram_core.batch import every_slot, unique_items
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.exactness import parameters, relative_errors
from gram_core.methods.e2e_unique import E2EUnique
from gram_core.methods.multi_step import MultiStep
from gram_core.methods.single_step import SingleStep
from gram_core.training import Optimization, Training
from tests.gram_core import _models as m

RUNNING_FORWARD_TWICE = {"gradient_cache", "gradient_cache_unique"}
NEEDING_LAYERS = {"activation_checkpointing"}
"""Methods that the spy, which has none, is no encoder for."""


def two_parameters(**options):
    """Encoder and CF parameter with gradients 3 and 4, on SGD of rate 1."""
    encoder, cf = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    encoder.grad, cf.grad = torch.full((1,), 3.0), torch.full((1,), 4.0)
    optimizers = [torch.optim.SGD([parameter], lr=1.0) for parameter in (encoder, cf)]
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5) for optimizer in optimizers]
    return encoder, cf, Optimization(*optimizers, *schedulers, **options)


def test_an_encoder_of_ones_own_may_not_normalise_by_its_batch():
    """Unless it is evaluated, where it reads statistics that stay: then a text's encoding is its own."""

    class Own(nn.Module):
        width = 32

        def __init__(self):
            super().__init__()
            self.inner, self.norm = m.make_encoder(), nn.BatchNorm1d(32).double()

        def forward(self, texts):
            return self.norm(self.inner(texts))

        def computed_tokens(self, lengths):
            return self.inner.computed_tokens(lengths)

    with pytest.raises(ValueError, match=r"the encoder normalises by its batch \(norm, a BatchNorm1d\)"):
        m.make_training(Own())
    own = Own()
    own.norm.eval()
    m.make_training(own)


@pytest.mark.parametrize("method", m.TRAINING_THE_ENCODER)
@pytest.mark.parametrize("optimizer", [True, False], ids=["with optimizer", "without"])
def test_a_frozen_encoder_leaves_the_cf_module_to_learn(method, optimizer):
    """As end-to-end training does, whose loss then has no graph below the encodings."""
    found = {}
    for name in ("e2e", method):
        training = m.with_adamw(m.make_training(), rate=1e-2)
        training.encoder.requires_grad_(False)
        if not optimizer:
            training.optimization.encoder_optimizer = None
        before, untouched = parameters({"encoder": training.encoder}), parameters({"cf": training.cf_module})
        made = m.METHODS[name](training, m.settings_of(m.METHODS[name], chunk_tokens=20, kept_tokens=40))
        for seed in range(3):
            made.step(m.make_batch(seed=seed))
        made.finish()
        assert max(relative_errors(parameters({"encoder": training.encoder}), before).values()) == 0
        found[name] = parameters({"cf": training.cf_module})
        assert min(float((p - q).norm()) for p, q in zip(found[name].values(), untouched.values(), strict=True)) > 0
    if m.METHODS[method].exactness == "exact":  # stale ones read encodings that they moved
        assert max(relative_errors(found[method], found["e2e"]).values()) <= 1e-10


def test_what_spreads_a_module_over_devices_is_refused():
    for wrap in (lambda module: nn.DataParallel(module), _data_parallel):
        training = m.make_training()
        with pytest.raises(TypeError, match=r"the encoder is wrapped in .*Parallel: give the module inside"):
            Training(training.table, wrap(training.encoder), training.cf_module, training.optimization)
        with pytest.raises(TypeError, match=r"the encoder's model is wrapped in .*Parallel"):
            HuggingFaceEncoder(wrap(training.encoder.model), pad_token_id=0, text_length=8)


def _data_parallel(module):
    """DistributedDataParallel as far as its type goes: making one takes a group of processes."""
    wrapped = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = module
    return wrapped


def test_a_scheduler_that_waits_for_a_measured_value_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    for schedulers in ({"encoder_scheduler": plateau}, {"cf_scheduler": plateau}):
        with pytest.raises(TypeError, match="ReduceLROnPlateau steps on a measured value"):
            Optimization(optimizer, optimizer, **schedulers)


def test_a_step_moves_both_advances_both_schedulers_and_clears_gradients():
    encoder, cf, optimization = two_parameters()
    optimization.step()
    assert (encoder.item(), cf.item()) == (-3, -4)
    assert encoder.grad is None
    assert cf.grad is None
    assert optimization.encoder_scheduler.get_last_lr() == [0.5]
    assert optimization.cf_scheduler.get_last_lr() == [0.5]


def test_steps_of_one_part_leave_the_other_alone():
    encoder, cf, optimization = two_parameters()
    optimization.step_cf()
    assert (encoder.item(), cf.item()) == (0, -4)
    assert encoder.grad.item() == 3
    assert optimization.encoder_scheduler.get_last_lr() == [1.0]
    assert optimization.cf_scheduler.get_last_lr() == [0.5]
    cf.grad = torch.ones(1)
    optimization.step_encoder()
    assert (encoder.item(), cf.item()) == (-3, -4)
    assert cf.grad.item() == 1


def test_clipping_is_over_both_where_both_step_and_over_one_where_one_does():
    encoder, cf, optimization = two_parameters(max_grad_norm=1.0)
    optimization.step()
    assert (encoder.item(), cf.item()) == pytest.approx((-0.6, -0.8), rel=1e-5)
    encoder, cf, optimization = two_parameters(max_grad_norm=1.0)
    optimization.step_cf()
    assert (encoder.item(), cf.item()) == pytest.approx((0, -1), rel=1e-5)
    encoder, cf, optimization = two_parameters(max_grad_norm=10.0)
    optimization.step()
    assert (encoder.item(), cf.item()) == (-3, -4)


@pytest.mark.parametrize("method", m.TRAINING_THE_ENCODER)
@pytest.mark.parametrize("frozen", ["encoder_optimizer", "cf_optimizer"])
def test_a_part_without_an_optimizer_stays_as_it_is(method, frozen):
    training = m.with_adamw(m.make_training(), max_grad_norm=1.0)
    setattr(training.optimization, frozen, None)
    still, moving = training.encoder, training.cf_module
    if frozen == "cf_optimizer":
        still, moving = moving, still
    before = [[p.detach().clone() for p in part.parameters()] for part in (still, moving)]
    run = m.METHODS[method](training, m.settings_of(m.METHODS[method], accumulation_steps=1))
    run.step(m.make_batch())
    run.finish()
    assert all(torch.equal(p, old) for p, old in zip(still.parameters(), before[0], strict=True))
    assert any(not torch.equal(p, old) for p, old in zip(moving.parameters(), before[1], strict=True))


@pytest.mark.parametrize("method", m.TRAINING_THE_ENCODER)
def test_schedulers_advance_once_per_optimizer_step(method):
    """multi_step: the encoder's once per CE minibatch, the CF module's once per step."""
    training = m.with_adamw(m.make_training())
    optimization = training.optimization
    for part in ("encoder", "cf"):
        scheduler = torch.optim.lr_scheduler.LambdaLR(getattr(optimization, f"{part}_optimizer"), lambda step: 1.0)
        setattr(optimization, f"{part}_scheduler", scheduler)
    run = m.METHODS[method](training, m.settings_of(m.METHODS[method], accumulation_steps=2, ce_passes=3))
    for step in range(4):
        run.step(m.make_batch(seed=step))
    run.finish()
    assert optimization.cf_scheduler.last_epoch == 4
    assert optimization.encoder_scheduler.last_epoch == (12 if method == "multi_step" else 4)


def spied(method, **settings):
    """A method on the spy encoder, with optimizers that really step."""
    spy = m.SpyEncoder.fresh()
    cf_module = m.make_cf_module("nrms", spy.width)
    optimization = Optimization(
        torch.optim.SGD(spy.parameters(), lr=0.1), torch.optim.SGD(cf_module.parameters(), lr=0.1)
    )
    training = Training(m.make_table(), spy, cf_module, optimization)
    try:
        return spy, m.METHODS[method](training, m.settings_of(m.METHODS[method], **settings))
    except Unavailable as refused:
        pytest.skip(str(refused))


@pytest.mark.parametrize("method", sorted(m.METHODS.keys() - NEEDING_LAYERS))
@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(chunk_tokens=11),
        dict(accumulation_steps=3, ce_passes=2),
        dict(ce_batch_tokens=9),
        dict(ce_batch_tokens=0),
    ],
)
def test_encoded_items_are_those_whose_texts_the_encoder_gets(method, settings):
    """Costs that a report derives from `encoded_items` are those that were paid."""
    spy, run = spied(method, **settings)
    batches = [m.make_batch(seed=step) for step in range(2 * run.interval)]
    for batch in batches:
        run.step(batch)
    run.finish()
    table = m.make_table()
    expected = [text for items in run.encoded_items(batches) for text in m.texts_of(table, items)]
    times = 2 if method in RUNNING_FORWARD_TWICE else 1
    assert Counter(text for texts in spy.seen for text in texts) == Counter(times * expected)
    assert spy.calls() > 0 or method == "ids_only"


def test_recomputed_chunks_pass_the_encoder_twice():
    """`encoded_items` says that it leaves them out; this is what it leaves out."""
    spy, run = spied("single_step", chunk_tokens=11, kept_tokens=0)
    batch = m.make_batch()
    run.step(batch)
    assert spy.calls() == 2 * len(unique_items(batch).items)


def test_end_to_end_training_encodes_every_slot_and_single_step_every_unique_item():
    batch = m.make_batch()
    slots, unique = len(every_slot(batch).items), len(unique_items(batch).items)
    assert unique < slots == batch.item_slots
    for method, expected in (("e2e", slots), ("e2e_unique", unique), ("single_step", unique)):
        spy, run = spied(method)
        run.step(batch)
        assert spy.calls() == expected


@pytest.mark.parametrize("method", m.TRAINING_THE_ENCODER)
def test_a_step_returns_the_loss_before_it_and_lowers_it(method):
    training = m.with_adamw(m.make_training(), rate=1e-3)
    run = m.METHODS[method](training, m.settings_of(m.METHODS[method], accumulation_steps=2))
    batch = m.make_batch()
    losses = [run.step(batch) for _ in range(20)]
    run.finish()
    assert not any(loss.requires_grad for loss in losses)
    selection = unique_items(batch)
    first = m.make_training()
    expected = first.loss(first.gather(selection.slot_rows)(first.encode(selection.items)), batch)
    assert float(losses[0]) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float(losses[-1]) < 0.8 * float(losses[0])


def in_float32(amp_dtype):
    encoder = m.make_encoder(pooling="attention").float()
    training = m.make_training(encoder, amp_dtype=amp_dtype)
    training.cf_module.float()
    return training


@pytest.mark.parametrize("method", m.TRAINING_THE_ENCODER)
def test_bfloat16_autocast_is_close_to_float32_and_keeps_master_dtypes(method):
    batch = m.make_batch()
    ends = []
    for amp_dtype in (None, torch.bfloat16):
        training = in_float32(amp_dtype)
        dtypes = []
        training.encoder.register_forward_hook(lambda *call, dtypes=dtypes: dtypes.append(call[2].dtype))
        gradients = m.step_gradients(method, training, batch, accumulation_steps=1)
        assert set(dtypes) == {torch.float32}
        assert {value.dtype for value in gradients.values()} == {torch.float32}
        ends.append(torch.cat([value.flatten() for value in gradients.values()]))
    exact, rounded = ends
    cosine = float(torch.dot(exact, rounded) / exact.norm() / rounded.norm())
    assert cosine > 0.98
    assert float((exact - rounded).norm() / exact.norm()) > 1e-5, "autocast must have rounded something"


def test_methods_take_their_settings_or_do_without():
    """A new file is used as the others are: with settings and without."""
    for name, method in m.METHODS.items():
        training = m.with_adamw(m.make_training(m.make_encoder(layers=3)))
        assert method(training, method.Settings()).interval >= 1, name
        assert method(training).settings == method.Settings(), name
    assert E2EUnique(m.make_training()).interval == 1
    assert SingleStep(m.make_training()).settings == SingleStep.Settings()
    assert MultiStep(m.make_training()).interval == MultiStep.Settings().accumulation_steps
