"""The stale peers against slow loops, item by item, written here: who is fresh, who is old, what moves."""

import copy
import math

import pytest
import torch

from bench.methods import exactness
from bench.peers.historical_embeddings import HistoricalEmbeddings
from bench.peers.pseudo_target_regression import PseudoTargetRegression
from bench.peers.speedyfeed import SpeedyFeed
from gram_core.batch import unique_items
from gram_core.engines import fast
from gram_core.exactness import parameters, relative_errors
from gram_core.methods.multi_step import MultiStep
from tests.gram_core import _models as m
from tests.gram_core.test_multi_step import PlainLoop, parts

TOLERANCE = 1e-10
CACHING = {"speedyfeed": SpeedyFeed, "historical_embeddings": HistoricalEmbeddings}


def make_training(**options):
    return m.with_adamw(m.make_training(**options))


def batches_of(steps, seed=20):
    return [m.make_batch(users=3, seed=seed + step, items=10) for step in range(steps)]


def assert_same_end(found, expected):
    ends = [
        {
            name: value
            for name, value in parameters(m.modules_of(training)).items()
            if not name.endswith(("key.bias", "keys.bias"))  # they move by rounding over AdamW's epsilon
        }
        for training in (found, expected)
    ]
    assert max(relative_errors(*ends).values()) <= TOLERANCE


class SlowCache:
    """One dict entry per item: its encoding and the step it was made at. `fresh(item, step)` decides."""

    def __init__(self, training):
        self.training, self.cache, self.step_number = training, {}, 0

    def step(self, batch, fresh):
        """`fresh`: the items to encode now. Returns the loss, and how old each reused encoding was."""
        training = self.training
        items = {int(i) for i, there in zip(batch.items.flatten(), batch.mask.flatten(), strict=True) if there}
        rows, ages = {}, []
        for item in sorted(items):
            if item in fresh:
                rows[item] = training.encoder(training.table.texts(torch.tensor([item])))[0]
            else:
                kept, at = self.cache[item]
                rows[item] = kept
                ages.append(self.step_number - at)
        nothing = torch.zeros(training.encoder.width, dtype=torch.float64)
        slots = torch.stack(
            [
                torch.stack([rows[int(i)] if there else nothing for i, there in zip(line, mask, strict=True)])
                for line, mask in zip(batch.items, batch.mask, strict=True)
            ]
        )
        loss = training.cf_module.loss(slots, batch)
        loss.backward()
        for item in fresh:
            self.cache[item] = (rows[item].detach().clone(), self.step_number)
        training.optimization.step()
        self.step_number += 1
        return float(loss.detach()), ages


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("speedyfeed", dict(beta=0.7, gamma=2)),
        ("speedyfeed", dict(beta=0.1, gamma=5, first_step=30)),
        ("historical_embeddings", dict(fresh_share=0.3)),
    ],
)
def test_what_is_reused_is_what_a_slow_cache_holds(name, options):
    """A row read at the wrong place, a gradient into an old encoding, a cache written after the encoder moved."""
    torch.manual_seed(5)
    training = make_training()
    slow = SlowCache(copy.deepcopy(training))
    method = CACHING[name]
    run = method(training, method.Settings(**options))
    ages = []
    for batch in batches_of(8):
        loss = run.step(batch)
        (fresh,) = run.encoded_items([batch])
        expected, found_ages = slow.step(batch, set(fresh.tolist()))
        ages += found_ages
        assert float(loss) == pytest.approx(expected, rel=1e-10)
    assert_same_end(training, slow.training)
    assert len(ages) > 10, "nothing was reused, so nothing was shown"
    assert max(ages) > 1
    if name == "speedyfeed":
        assert max(ages) <= options["gamma"]


def fresh_shares(method, settings, steps, seed=1):
    """Part of each step's unique items that was encoded, always on the same batch."""
    torch.manual_seed(seed)
    run = method(make_training(), settings)
    batch = m.make_batch(users=4)
    unique = len(unique_items(batch).items)
    shares = []
    for _ in range(steps):
        run.step(batch)
        shares.append(len(run.encoded_items([batch])[0]) / unique)
    return shares


def test_speedyfeed_reuses_with_its_probability_and_never_beyond_its_expiry():
    assert SpeedyFeed(make_training(), SpeedyFeed.Settings(beta=0.5, first_step=3)).reuse_probability == pytest.approx(
        1 - math.exp(-1.5)
    )
    never = fresh_shares(SpeedyFeed, SpeedyFeed.Settings(beta=0.0), 4)
    assert never == [1.0] * 4, "exp(0) = 1: nothing is reused at rate 0"
    always = fresh_shares(SpeedyFeed, SpeedyFeed.Settings(beta=1.0, gamma=3, first_step=1000), 9)
    assert always == [1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0], "encoded, reused for gamma steps, encoded again"
    half = fresh_shares(SpeedyFeed, SpeedyFeed.Settings(beta=1e-3, gamma=50, first_step=round(1000 * math.log(2))), 40)
    assert 0.4 < sum(half[1:]) / len(half[1:]) < 0.6


def test_historical_embeddings_encodes_its_share_whatever_the_history_holds():
    assert fresh_shares(HistoricalEmbeddings, HistoricalEmbeddings.Settings(fresh_share=1.0), 3) == [1.0] * 3
    shares = fresh_shares(HistoricalEmbeddings, HistoricalEmbeddings.Settings(fresh_share=0.25), 5)
    unique = len(unique_items(m.make_batch(users=4)).items)
    assert shares == [1.0] + [math.ceil(0.25 * unique) / unique] * 4


@pytest.mark.parametrize("name", CACHING)
def test_all_fresh_is_end_to_end_training(name):
    """The other end of the scale: nothing reused leaves exactly its gradient."""
    batch = m.make_batch()
    expected = m.step_gradients("e2e", m.make_training(), batch)
    found = m.step_gradients(name, m.make_training(), batch, fresh_share=1.0, beta=0.0)
    assert max(relative_errors(found, expected).values()) <= TOLERANCE


@pytest.mark.parametrize("name", CACHING)
def test_a_restored_cache_goes_on_as_if_nothing_had_happened(name):
    """Cache, step and generator: without one of them the draws, or what is read, would differ."""
    torch.manual_seed(2)
    method = CACHING[name]
    settings = m.settings_of(method, beta=0.5, fresh_share=0.3)
    first = method(make_training(), settings)
    for batch in batches_of(4):
        first.step(batch)
    state = {key: value.clone() for key, value in first.state().items()}
    second = method(copy.deepcopy(first.training), settings)
    second.restore(state)
    for batch in batches_of(4, seed=50):
        assert float(first.step(batch)) == float(second.step(batch))
        assert torch.equal(first.encoded_items([batch])[0], second.encoded_items([batch])[0])


@pytest.mark.parametrize("name", CACHING)
def test_the_cache_grows_with_the_items_touched(name):
    torch.manual_seed(2)
    run = CACHING[name](make_training())
    touched = set()
    for batch in batches_of(3):
        run.step(batch)
        touched |= set(unique_items(batch).items.tolist())
    assert set(run.state()["items"].tolist()) == touched
    assert len(touched) < m.ITEMS


@pytest.mark.parametrize(("n", "steps"), [(3, 7), (1, 4)])
def test_pseudo_target_regression_equals_a_plain_loop(n, steps):
    """Rows moved by SGD of rate 1, regression in |Q|/N minibatches, an open interval finished."""
    training = make_training()
    reference = PlainLoop(copy.deepcopy(training), n, parts(1))
    run = PseudoTargetRegression(training, PseudoTargetRegression.Settings(accumulation_steps=n))
    for batch in batches_of(steps):
        loss = run.step(batch)
        reference.step(batch)
        assert float(loss) == pytest.approx(reference.losses[-1], rel=1e-10)
    run.finish()
    if reference.steps:
        reference.update()
    ends = [
        parameters({"encoder": part.encoder, "cf": cf})
        for part, cf in ((training, training.cf_module), (reference, reference.cf))
    ]
    kept = [{k: v for k, v in end.items() if not k.endswith(("key.bias", "keys.bias"))} for end in ends]
    assert max(relative_errors(*kept).values()) <= TOLERANCE


@pytest.mark.parametrize("cf_module", m.CF_MODULES)
@pytest.mark.parametrize("method", [name for name in m.METHODS if m.METHODS[name].exact_with])
def test_methods_that_are_exact_with_some_settings_are_so(method, cf_module):
    """What a record may claim: gradients of one step, and parameters after twenty AdamW steps."""
    chosen = m.METHODS[method]
    task = m.CF_MODULES[cf_module].task
    batch = m.make_batch(task)
    expected = m.step_gradients("e2e", m.make_training(cf_module=cf_module), batch)
    found = m.step_gradients(method, m.make_training(cf_module=cf_module), batch, **chosen.exact_with)
    assert max(relative_errors(found, expected).values()) <= TOLERANCE
    ends = []
    for name, settings in (("e2e", {}), (method, chosen.exact_with)):
        training = m.with_adamw(m.make_training(cf_module=cf_module))
        run = m.METHODS[name](training, m.METHODS[name].Settings(**settings))
        for step in range(20):
            run.step(m.make_batch(task, seed=step))
        run.finish()
        ends.append(training)
    assert_same_end(*reversed(ends))


@pytest.mark.parametrize(
    ("settings", "max_grad_norm", "dropout", "expected"),
    [
        (dict(accumulation_steps=1), None, "off", "exact"),
        (dict(accumulation_steps=2), None, "off", "stale"),
        (dict(accumulation_steps=1, ce_batch_tokens=100), None, "off", "stale"),
        (dict(accumulation_steps=1), 1.0, "off", "stale"),
        (dict(accumulation_steps=1), None, "shared", "other-model"),
    ],
)
def test_an_interval_of_one_step_is_called_exact_where_it_is(settings, max_grad_norm, dropout, expected):
    assert exactness(MultiStep, dropout, MultiStep.Settings(**settings), max_grad_norm) == expected


@pytest.mark.parametrize("method", [SpeedyFeed, HistoricalEmbeddings, PseudoTargetRegression])
def test_the_fast_engine_changes_their_encoder_and_not_their_course(method):
    """Same draws, same minibatches: both engines end at the same parameters."""
    ends = []
    for build in (lambda training, settings: method(training, settings), fast_build(method)):
        torch.manual_seed(4)
        training = make_training()
        run = build(training, m.settings_of(method, accumulation_steps=2, beta=0.3))
        for batch in batches_of(4):
            run.step(batch)
        run.finish()
        ends.append(training)
    assert_same_end(*ends)


def fast_build(method):
    return lambda training, settings: fast.build(method, training, settings)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        (SpeedyFeed, dict(gamma=-1)),
        (HistoricalEmbeddings, dict(fresh_share=0.0)),
        (PseudoTargetRegression, dict(accumulation_steps=0)),
    ],
)
def test_settings_refuse_what_means_nothing(method, values):
    with pytest.raises(ValueError, match="must be"):
        method.Settings(**values)
