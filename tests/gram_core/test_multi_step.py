"""Mathematics 3: N = 1 is Single-step GRAM; N > 1 equals a slow, plain loop over items that is written here."""

import copy
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from gram_core.exactness import parameters, relative_errors
from gram_core.methods.multi_step import MultiStep, resolve_accumulation_steps
from gram_core.methods.single_step import SingleStep
from gram_core.protocols import loss_terms
from gram_core.training import Optimization
from tests.gram_core import _models as m
from tests.gram_core import _strategies as strategies

TOLERANCE = 1e-10


pytestmark = pytest.mark.usefixtures("float64")


def task_of(cf_module):
    return m.CF_MODULES[cf_module].task


def make_training(cf_module, family="bert", **options):
    return m.with_adamw(m.make_training(m.make_encoder(family), cf_module), **options)


def batches_of(cf_module, steps):
    return [m.make_batch(task_of(cf_module), users=3, seed=20 + step, items=10) for step in range(steps)]


def assert_close(found, expected, tolerance=TOLERANCE):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not name.endswith(("key.bias", "keys.bias")):  # they move by rounding over AdamW's epsilon
            error = float((found[name] - value).norm() / value.norm())
            assert error <= tolerance, f"{name}: {error:.1e}"


class Watched:
    """A CF module that notes the slot encodings it is given, and behaves as the one inside."""

    def __init__(self, inner):
        self.inner, self.task, self.given = inner, inner.task, []

    def loss(self, encodings, batch):
        self.given.append(encodings.detach().clone())
        return self.inner.loss(encodings, batch)


def rate_of(options):
    """By how much a step moves encodings, of its batch."""
    rate, loss = options.get("pseudo_target_rate", 1.0), options.get("pseudo_target_loss", "mean")
    return lambda batch, cf: rate * (loss_terms(cf, batch) if loss == "sum" else 1)


class PlainLoop:
    """Alg. 1, item by item: a dict of moved encodings, SGD on them, regression at the interval's end."""

    def __init__(self, training, steps_per_interval, minibatches, rate=lambda batch, cf: 1.0):
        self.encoder, self.cf, self.table = training.encoder, training.cf_module, training.table
        self.optimization = training.optimization
        self.n, self.minibatches, self.rate = steps_per_interval, minibatches, rate
        self.moved, self.steps, self.given, self.losses = {}, 0, [], []

    def encode(self, items):
        return torch.cat([self.encoder(self.table.texts(torch.tensor([item]))) for item in items])

    def step(self, batch):
        items = sorted(
            {int(item) for item, there in zip(batch.items.flatten(), batch.mask.flatten(), strict=True) if there}
        )
        for item in items:
            if item not in self.moved:
                with torch.no_grad():
                    self.moved[item] = self.encode([item])[0]
        leaves = {item: self.moved[item].clone().requires_grad_() for item in items}
        nothing = torch.zeros_like(self.moved[items[0]])
        rows = [
            torch.stack([leaves[int(i)] if there else nothing for i, there in zip(row, mask, strict=True)])
            for row, mask in zip(batch.items, batch.mask, strict=True)
        ]
        slots = torch.stack(rows)
        self.given.append(slots.detach())
        loss = self.cf.loss(slots, batch)
        loss.backward()
        self.losses.append(float(loss.detach()))
        self.optimization.cf_optimizer.step()
        self.optimization.cf_optimizer.zero_grad()
        for item, leaf in leaves.items():
            if leaf.grad is not None:
                self.moved[item] = self.moved[item] - self.rate(batch, self.cf) * leaf.grad
        self.steps += 1
        if self.steps == self.n:
            self.update()

    def update(self):
        for items in self.minibatches(list(self.moved), self.steps):
            target = torch.stack([self.moved[item] for item in items]).detach()
            (0.5 * ((target - self.encode(items)) ** 2).sum()).backward()
            self.optimization.encoder_optimizer.step()
            self.optimization.encoder_optimizer.zero_grad()
        self.moved, self.steps = {}, 0


def parts(passes):
    """The paper's choice: the touched items in as many minibatches as the interval had steps."""

    def split(items, steps):
        sizes = [len(items) // steps + (part < len(items) % steps) for part in range(steps)]
        starts = [sum(sizes[:part]) for part in range(steps)]
        return [items[start : start + size] for start, size in zip(starts, sizes, strict=True) if size] * passes

    return split


def by_count(count, passes):
    """At most so many items a minibatch, evenly: what a token budget of count padded texts comes to."""

    def split(items, steps):
        size = math.ceil(len(items) / math.ceil(len(items) / count))
        return [items[start : start + size] for start in range(0, len(items), size)] * passes

    return split


OPTIONS = [
    (dict(), parts(1)),
    (dict(ce_batch_tokens=0), parts(1)),
    (dict(pseudo_target_loss="sum", pseudo_target_rate=0.3, ce_passes=2), parts(2)),
    (dict(ce_batch_tokens=3 * m.TEXT_LENGTH), by_count(3, 1)),
    (dict(ce_batch_tokens=10_000), by_count(10_000, 1)),
    (dict(ce_batch_tokens=4 * m.TEXT_LENGTH + 1, ce_passes=3, encode_batch_tokens=2 * m.TEXT_LENGTH), by_count(4, 3)),
]


@pytest.mark.parametrize(
    ("cf_module", "options", "minibatches", "n", "steps"),
    [
        (cf_module, *options, *((3, 7), (4, 4))[(row + column) % 2])
        for row, cf_module in enumerate(m.CF_MODULES)
        for column, options in enumerate(OPTIONS)
    ],
)
def test_moved_encodings_and_parameters_equal_a_plain_loop(cf_module, options, minibatches, n, steps):
    """Each step's slot encodings (so the pseudo-targets so far), each loss, and the parameters, intervals apart."""
    training = make_training(cf_module)
    reference = PlainLoop(copy.deepcopy(training), n, minibatches, rate_of(options))
    training.cf_module = watched = Watched(training.cf_module)
    start = parameters({"encoder": training.encoder})
    run = MultiStep(training, MultiStep.Settings(accumulation_steps=n, **options))
    stale_slots = 0
    for number, batch in enumerate(batches_of(cf_module, steps)):
        torch.manual_seed(number)
        loss = run.step(batch)
        torch.manual_seed(number)
        reference.step(batch)
        assert float(loss) == pytest.approx(reference.losses[-1], rel=1e-11)
        assert float((watched.given[-1] - reference.given[-1]).abs().max()) <= 1e-11
        with torch.no_grad():
            fresh = training.encoder(training.table.texts(batch.items[batch.mask]))
        stale_slots += int(((watched.given[-1][batch.mask] - fresh).norm(dim=1) > 1e-6).sum())
        both = [{"encoder": training.encoder, "cf": watched.inner}, {"encoder": reference.encoder, "cf": reference.cf}]
        assert_close(*map(parameters, both))
        assert len(run._buffer) == len(reference.moved)
    assert stale_slots > 5, "later steps must meet encodings that have moved"
    assert max(relative_errors(parameters({"encoder": training.encoder}), start).values()) > 1e-3

    run.finish()
    if reference.steps:
        reference.update()
    assert_close(*map(parameters, ({"encoder": training.encoder}, {"encoder": reference.encoder})))


@settings(max_examples=12)
@given(data=st.data())
def test_any_batches_equal_the_plain_loop(data):
    """One unique item, empty histories, padding anywhere; N and the minibatches as they come.

    With SGD: where gradients cancel, AdamW would make steps of their rounding.
    """
    cf_module = data.draw(st.sampled_from(list(m.CF_MODULES)))
    batches = data.draw(st.lists(strategies.batches(task_of(cf_module)), min_size=1, max_size=4))
    n, count = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    training = make_training(cf_module)
    training.optimization = Optimization(
        torch.optim.SGD(training.encoder.parameters(), lr=0.02),
        torch.optim.SGD(training.cf_module.parameters(), lr=0.02),
    )
    reference = PlainLoop(copy.deepcopy(training), n, by_count(count, 1))
    training.cf_module = watched = Watched(training.cf_module)
    run = MultiStep(training, MultiStep.Settings(accumulation_steps=n, ce_batch_tokens=count * m.TEXT_LENGTH))
    for number, batch in enumerate(batches):
        for each in (run, reference):
            torch.manual_seed(number)
            each.step(batch)
        assert float((watched.given[-1] - reference.given[-1]).abs().max()) <= 1e-10


@pytest.mark.parametrize(
    ("family", "cf_module"),
    [(family, "nrms") for family in m.FAMILIES] + [("bert", name) for name in m.CF_MODULES if name != "nrms"],
)
def test_one_step_intervals_with_one_minibatch_are_single_step(family, cf_module):
    """Also the literal pseudo-loss against the encoding gradient, over several AdamW steps."""
    results = []
    for method in (
        MultiStep(make_training(cf_module, family), MultiStep.Settings(accumulation_steps=1)),
        SingleStep(make_training(cf_module, family), SingleStep.Settings(chunk_tokens=30, kept_tokens=0)),
    ):
        losses = []
        for number, batch in enumerate(batches_of(cf_module, 6)):
            torch.manual_seed(number)
            losses.append(float(method.step(batch)))
        results.append((losses, parameters(m.modules_of(method.training))))
    (found_losses, found), (losses, expected) = results
    assert found_losses == pytest.approx(losses, rel=1e-10)
    errors = relative_errors(found, expected)
    assert max(value for name, value in errors.items() if "key" not in name and ".k" not in name) <= TOLERANCE
    assert losses[0] != losses[1]


def test_longer_intervals_are_not_single_step():
    """Guard: N = 3 must part from N = 1, or nothing above was stale."""
    ends = []
    for n in (1, 3):
        run = MultiStep(make_training("nrms"), MultiStep.Settings(accumulation_steps=n, ce_batch_tokens=10_000))
        for batch in batches_of("nrms", 6):
            run.step(batch)
        ends.append(parameters(m.modules_of(run.training)))
    assert max(relative_errors(*ends).values()) > 1e-4


def test_finish_updates_the_encoder_once_and_only_where_steps_are_pending():
    run = MultiStep(make_training("nrms"), MultiStep.Settings(accumulation_steps=3))
    before = parameters({"e": run.training.encoder})
    run.finish()
    batches = batches_of("nrms", 2)
    for batch in batches:
        run.step(batch)
    assert max(relative_errors(parameters({"e": run.training.encoder}), before).values()) == 0
    assert run.pending
    run.finish()
    after = parameters({"e": run.training.encoder})
    assert max(relative_errors(after, before).values()) > 1e-4
    assert not run.pending
    run.finish()
    assert max(relative_errors(parameters({"e": run.training.encoder}), after).values()) == 0


def test_the_encoder_keeps_still_within_an_interval_and_the_cf_module_does_not():
    run = MultiStep(make_training("nrms"), MultiStep.Settings(accumulation_steps=4))
    for number, batch in enumerate(batches_of("nrms", 4)):
        encoder, cf = (parameters({"p": part}) for part in (run.training.encoder, run.training.cf_module))
        run.step(batch)
        moved = [
            max(relative_errors(parameters({"p": part}), old).values())
            for part, old in ((run.training.encoder, encoder), (run.training.cf_module, cf))
        ]
        assert (moved[0] > 0) == (number == 3)
        assert moved[1] > 0


@pytest.mark.parametrize(
    ("given_steps", "steps_per_epoch", "expected"),
    [
        (1, None, 1),
        (16, 100, 16),
        ("16", None, 16),
        ("1E", 120, 120),
        ("0.5E", 120, 60),
        ("0.5e", 3, 2),
        ("0.001E", 50, 1),
    ],
)
def test_accumulation_steps_resolve_shares_of_an_epoch(given_steps, steps_per_epoch, expected):
    assert resolve_accumulation_steps(given_steps, steps_per_epoch) == expected


@pytest.mark.parametrize("wrong", [0, -1, "0E", "-1E", "E", "", "half", "1.5", "nanE", "infE", "1Ex"])
def test_accumulation_steps_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="must be a positive integer or a share of an epoch"):
        resolve_accumulation_steps(wrong, 100)


def test_a_share_of_an_epoch_needs_an_epoch():
    with pytest.raises(ValueError, match="needs a workload with epochs"):
        resolve_accumulation_steps("0.5E", None)


@pytest.mark.parametrize("values", [dict(accumulation_steps=0), dict(ce_passes=0)])
def test_settings_refuse_counts_below_one(values):
    with pytest.raises(ValueError, match="at least 1"):
        MultiStep.Settings(**values)
