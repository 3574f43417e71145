"""Mathematics 1: what exact methods leave in every parameter's gradient is what end-to-end training leaves there."""

from functools import cache

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import event, given, settings

from gram_core.exactness import GradientRecorder, parameters, relative_errors, total_norm
from tests.gram_core import _models as m
from tests.gram_core import _strategies as strategies

TOLERANCE = 1e-10
CANCELLED = 1e-9
"""A gradient below this is zero in exact arithmetic: each item's contributions cancel, and its rest is rounding."""
ROUNDING_ONLY = 1e-12
"""A parameter whose gradient stays below this share of the whole: zero in exact arithmetic."""

RANKING = [name for name, module in m.CF_MODULES.items() if module.task == "ranking"]
PEERS = [name for name in m.EXACT if name in m.PEERS]
"""Tested with one CF module: what they do with any is to call its loss once."""
OURS = [name for name in m.EXACT if name != "e2e" and name not in PEERS]
everything = pytest.mark.parametrize("cf_module", m.CF_MODULES)
ENCODERS = [
    (family, pooling, m.PADDINGS[(row + column) % 2], list(m.CF_MODULES)[(row + column) % len(m.CF_MODULES)])
    for row, family in enumerate(m.FAMILIES)
    for column, pooling in enumerate(m.POOLINGS)
]
"""Every family with every pooling; each with one padding and one CF module, which sees encodings only, and in all with
both paddings and all CF modules."""
exact = pytest.mark.parametrize(
    ("method", "cf_module"),
    [(name, cf_module) for name in OURS for cf_module in m.CF_MODULES] + [(name, "nrms") for name in PEERS],
)


pytestmark = pytest.mark.usefixtures("float64")


def task_of(cf_module):
    return m.CF_MODULES[cf_module].task


def assert_same(found, expected, tolerance=TOLERANCE):
    """The same gradients; or, where they cancel exactly, rounding on both sides."""
    if total_norm(expected.values()) < CANCELLED:
        event("gradients cancel")
        assert found.keys() == expected.keys()
        assert total_norm(found.values()) < CANCELLED
        return
    errors = relative_errors(found, expected)
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= tolerance, f"{worst}: {errors[worst]:.1e}"


def assert_alive(gradients):
    """Nearly every parameter has a gradient that is not rounding; those that have not are biases of attention keys."""
    total = total_norm(gradients.values())
    assert total > 1e-3
    silent = [name for name, value in gradients.items() if total_norm([value]) < ROUNDING_ONLY * total]
    assert all(name.endswith(("key.bias", "keys.bias", "k.bias", "k_lin.bias")) for name in silent), silent
    assert len(gradients) > 20


def test_the_registries_hold_what_these_tests_are_about():
    """Discovery that found nothing would pass every parametrised test by running none."""
    assert {"e2e", "e2e_unique", "single_step", "gradient_cache", "activation_checkpointing"} <= m.EXACT.keys()
    assert m.METHODS["multi_step"].exactness == "stale"
    assert "nrms" in m.CF_MODULES
    assert {"bert", "roberta", "mpnet", "distilbert"} <= set(m.FAMILIES)


@pytest.mark.parametrize(("family", "pooling", "padding", "cf_module"), ENCODERS)
def test_every_encoder_and_cf_module_gets_the_same_gradients(family, pooling, padding, cf_module):
    """A position or padding convention that depends on which texts run together would break this."""
    training = m.make_training(m.make_encoder(family, pooling, padding), cf_module)
    batch = m.make_batch(task_of(cf_module))
    expected = m.step_gradients("e2e", training, batch)
    assert_alive(expected)
    for method in OURS + (PEERS if pooling == "mean" else []):
        assert_same(m.step_gradients(method, training, batch), expected)
        small = dict(chunk_tokens=2 * m.TEXT_LENGTH + 1, kept_tokens=4 * m.TEXT_LENGTH)
        assert_same(m.step_gradients(method, training, batch, **small), expected)


@everything
@settings(max_examples=15)
@given(data=st.data())
def test_any_batch_and_any_chunking_gives_the_same_gradients(cf_module, data):
    """Padding anywhere, empty histories, one unique item, all unique, heavy repetition, any token budgets."""
    family = data.draw(st.sampled_from(m.FAMILIES))
    padding = data.draw(st.sampled_from(m.PADDINGS))
    batch = data.draw(strategies.batches(task_of(cf_module)))
    budgets = dict(chunk_tokens=data.draw(strategies.BUDGETS), kept_tokens=data.draw(strategies.KEPT))
    training = m.make_training(m.make_encoder(family, padding=padding), cf_module)
    expected = m.step_gradients("e2e", training, batch)
    for method in [*OURS, data.draw(st.sampled_from(PEERS))]:
        assert_same(m.step_gradients(method, training, batch, **budgets), expected)


@exact
@pytest.mark.parametrize("share", [0.1, 10.0])
def test_clipping_the_global_norm_sees_the_same_norm(method, cf_module, share):
    """A method that clipped encoder and CF module apart, or before its gradient was whole, would scale otherwise."""
    training = m.make_training(cf_module=cf_module)
    batch = m.make_batch(task_of(cf_module))
    free = m.step_gradients("e2e", training, batch)
    norm = share * total_norm(free.values())
    clipped = m.step_gradients("e2e", training, batch, max_grad_norm=norm)
    assert total_norm(clipped.values()) == pytest.approx(min(norm, total_norm(free.values())), rel=1e-4)
    found = m.step_gradients(method, training, batch, max_grad_norm=norm, chunk_tokens=20, kept_tokens=40)
    assert_same(found, clipped)


def trained(method, cf_module, steps, noise, **options):
    """Parameters after AdamW steps on changing batches, and the largest share each gradient ever had."""
    training = m.with_adamw(m.make_training(m.make_encoder("bert", "attention"), cf_module), **options)
    watched = {}
    for prefix, module, optimizer in (
        ("encoder", training.encoder, training.optimization.encoder_optimizer),
        ("cf", training.cf_module, training.optimization.cf_optimizer),
    ):
        recorder = GradientRecorder(module)

        def note(*_, recorder=recorder, prefix=prefix):
            recorder.step()
            watched.update({f"{prefix}.{name}": value for name, value in recorder.last.items()})

        optimizer.register_step_pre_hook(note)
    run = m.METHODS[method](training, m.settings_of(m.METHODS[method], chunk_tokens=40, kept_tokens=60))
    torch.manual_seed(0)
    for step in range(steps):
        run.step(m.make_batch(task_of(cf_module), seed=step))
        total = total_norm(watched.values())
        for name, value in watched.items():
            noise[name] = max(noise.get(name, 0.0), total_norm([value]) / total)
    return parameters(m.modules_of(training))


@cache
def by_end_to_end_training(cf_module, steps, rate, max_grad_norm):
    """Parameters, and the largest share each gradient ever had: the same for every method that is compared."""
    shares = {}
    return trained("e2e", cf_module, steps, shares, rate=rate, max_grad_norm=max_grad_norm), shares


@pytest.mark.parametrize(
    ("method", "cf_module", "max_grad_norm"),
    [
        (name, cf_module, (None, 0.5)[(row + column) % 2])
        for row, name in enumerate(OURS)
        for column, cf_module in enumerate(m.CF_MODULES)
    ]
    + [(name, "nrms", 0.5) for name in PEERS],
)
def test_parameters_agree_after_eight_adamw_steps(method, cf_module, max_grad_norm):
    """Errors that grow from step to step would show here.

    AdamW divides by the gradient's own size, so a parameter whose gradient is zero in exact arithmetic (the bias of
    attention keys) moves by rounding noise over epsilon, 1e-8: a random walk of about 1e-9 of the rate. Those are
    held to what they are, walks that stay that small; every other parameter to the tolerance.
    """
    rate, steps = 1e-3, 8
    before = parameters(m.modules_of(m.make_training(m.make_encoder("bert", "attention"), cf_module)))
    end_to_end, shares = by_end_to_end_training(cf_module, steps, rate, max_grad_norm)
    expected = dict(end_to_end)
    silent = {name for name, share in shares.items() if share < ROUNDING_ONLY}
    assert all(name.endswith(("key.bias", "keys.bias")) for name in silent)
    moved = {name for name in shares if float((expected[name] - before[name]).abs().max()) > 0.5 * rate}
    assert len(moved) > 0.9 * len(shares) - len(silent)
    found = trained(method, cf_module, steps, {}, rate=rate, max_grad_norm=max_grad_norm)
    for name in silent:
        assert float((found.pop(name) - expected.pop(name)).abs().max()) < 1e-6 * rate * steps, name
    errors = relative_errors(found, expected)
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= TOLERANCE, f"{worst}: {errors[worst]:.1e}"


@exact
def test_one_other_token_changes_the_gradients(method, cf_module):
    """Guard: a comparison that did not look at the texts would hold for any two tables."""
    batch = m.make_batch(task_of(cf_module))
    table = m.make_table()
    item = int(batch.items[0, 0])
    before = m.step_gradients(method, m.make_training(cf_module=cf_module, table=table), batch)
    after = m.step_gradients(method, m.make_training(cf_module=cf_module, table=m.with_other_text(table, item)), batch)
    errors = relative_errors(after, before)
    assert max(errors.values()) > 1e-3
    with pytest.raises(AssertionError):
        assert_same(after, before)


def test_a_lost_repeat_is_noticed():
    """Guard: encoding gradients that reach only one of an item's slots are far from end-to-end training's."""
    training = m.make_training()
    batch = m.make_batch()
    expected = m.step_gradients("e2e", training, batch)

    class OneSlotOnly(m.METHODS["single_step"]):
        def encoding_gradient(self, encodings, gather, batch):
            loss, gradient = super().encoding_gradient(encodings, gather, batch)
            repeats = torch.unique(batch.items[batch.mask], return_counts=True)[1]
            return loss, gradient / repeats[:, None]

    encoder, cf = GradientRecorder(training.encoder), GradientRecorder(training.cf_module)
    training.optimization.encoder_optimizer, training.optimization.cf_optimizer = encoder, cf
    OneSlotOnly(training).step(batch)
    found = {f"encoder.{name}": value for name, value in encoder.last.items()}
    found |= {f"cf.{name}": value for name, value in cf.last.items()}
    with pytest.raises(AssertionError):
        assert_same(found, expected)
    errors = relative_errors(found, expected)
    assert max(value for name, value in errors.items() if name.startswith("cf.")) <= TOLERANCE


@pytest.mark.parametrize("cf_module", RANKING)
def test_gradients_that_cancel_are_rounding_on_both_sides(cf_module):
    """One item everywhere: all candidates score alike whatever the weights, so nothing can be learnt."""
    training = m.make_training(cf_module=cf_module)
    batch = m.make_batch()
    batch.items.fill_(7)
    for method in m.EXACT:
        assert total_norm(m.step_gradients(method, training, batch).values()) < CANCELLED


def test_relative_errors_refuses_gradients_of_one_side_only():
    """A method that forgets a parameter must not pass because nothing was compared."""
    value = torch.ones(2)
    with pytest.raises(ValueError, match=r"only one side has cf\.b"):
        relative_errors({"cf.a": value}, {"cf.a": value, "cf.b": value})


def test_relative_errors_scales_by_the_expected_norm_with_a_floor():
    expected = {"large": torch.tensor([3.0, 4.0]), "zero": torch.tensor([0.0])}
    found = {"large": torch.tensor([3.0, 4.5]), "zero": torch.tensor([5e-16])}
    errors = relative_errors(found, expected)
    assert errors["large"] == pytest.approx(0.1)
    assert errors["zero"] == pytest.approx(1e-12)


def test_float64_throughout_widens_what_asks_for_float32():
    """Without it ModernBERT's rotary positions round to float32 and no comparison at 1e-10 is one."""
    third = torch.tensor([1.0], dtype=torch.float64) / 3
    casts = [
        lambda: third.float(),
        lambda: third.to(torch.float32),
        lambda: third.to(dtype=torch.float32),
        lambda: torch.softmax(third, -1, dtype=torch.float32) * third,
    ]
    assert all(torch.equal(cast(), third) for cast in casts)
    with torch.overrides._pop_mode_temporarily():
        assert third.float().dtype == torch.float32
