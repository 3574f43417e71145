"""frozen and ids_only: what trains, what stays, and what evaluation sees."""

import copy

import pytest
import torch

from bench.peers.frozen import Frozen
from bench.peers.ids_only import IdsOnly
from gram_core.batch import unique_items
from gram_core.engines import eager, fast
from gram_core.evaluation import encode_all, score
from gram_core.training import Optimization
from tests.gram_core import _models as m


def parts(training):
    return [[p.detach().clone() for p in part.parameters()] for part in (training.encoder, training.cf_module)]


def same(before, after):
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("engine", [eager, fast])
def test_frozen_trains_the_cf_module_as_a_plain_loop_on_fixed_encodings(engine):
    """A stale row, a lost repeat or a second encoding would show in the CF module's parameters."""
    training = m.with_adamw(m.make_training(), max_grad_norm=0.5)
    plain = copy.deepcopy(training)
    encoder_before, _ = parts(training)
    run = engine.build(Frozen, training, Frozen.Settings(encode_batch_tokens=30))
    batches = [m.make_batch(seed=step) for step in range(4)]
    for batch in batches:
        loss = run.step(batch)
        with torch.no_grad():
            slots = plain.encoder(plain.table.texts(batch.items.flatten())).view(*batch.items.shape, -1)
        expected = plain.cf_module.loss(slots * batch.mask[..., None], batch)
        expected.backward()
        plain.optimization.step_cf()
        assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-10)
    run.finish()
    encoder_after, cf_after = parts(run.training)
    assert same(encoder_before, encoder_after)
    assert not same(cf_after, parts(m.make_training())[1])
    for found, wanted in zip(cf_after, parts(plain)[1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    scores = (score(own, batches)[0] for own in (run.training, training))
    torch.testing.assert_close(*scores, rtol=1e-9, atol=1e-12)


def test_frozen_encodes_each_item_once_without_dropout_and_keeps_only_what_was_touched():
    training = m.with_adamw(m.make_training(m.make_encoder(dropout=0.5)))
    run = Frozen(training)
    batches = [m.make_batch(seed=step) for step in range(3)]
    for batch in batches:
        run.step(batch)
    passed = torch.cat(run.encoded_items(batches))
    touched = torch.unique(torch.cat([unique_items(batch).items for batch in batches]))
    assert torch.equal(passed.sort().values, touched)
    assert len(touched) < len(training.table)
    kept = run.state()
    torch.testing.assert_close(kept["rows"], encode_all(training, kept["items"]))
    assert torch.equal(kept["items"], touched)
    with pytest.raises(ValueError, match="1 of 1 batches have not been stepped on"):
        run.encoded_items([m.make_batch(seed=9)])


def test_frozen_goes_on_from_a_state():
    """A restored method encodes nothing again."""
    first, second = (Frozen(m.with_adamw(m.make_training())) for _ in range(2))
    second.restore(first.state())
    batch = m.make_batch()
    first.step(batch)
    second.restore(first.state())
    second.step(batch)
    assert [len(items) for items in second.encoded_items([batch])] == [0]
    assert torch.equal(second.state()["rows"], first.state()["rows"])


@pytest.mark.parametrize("engine", [eager, fast])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_ids_only_trains_rows_that_it_met_and_no_others(engine, optimizer):
    """An optimizer that moves untouched rows would move cold items; the encoder must not be touched at all."""
    given = m.make_training()
    given.optimization = Optimization(
        optimizer(given.encoder.parameters(), lr=0.1, weight_decay=0.1), optimizer(given.cf_module.parameters(), lr=0.1)
    )
    before, _ = parts(given)
    run = engine.build(IdsOnly, given, IdsOnly.Settings())
    start = run.training.encoder.rows.detach().clone()
    batches = [m.make_batch(seed=step) for step in range(5)]
    losses = [float(run.step(batches[0])) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert same(before, list(given.encoder.parameters()))
    trained = unique_items(batches[0]).items
    untouched = torch.ones(len(start), dtype=torch.bool)
    untouched[trained] = False
    after = run.training.encoder.rows.detach()
    assert torch.equal(after[untouched], start[untouched])
    moved = (after[trained] != start[trained]).any(1)
    assert int(moved.sum()) >= len(trained) - 1, "only a user's lone candidate has no gradient"
    assert torch.equal(encode_all(run.training, torch.arange(len(start))), after)
    assert score(run.training, batches)[0].shape[0] == batches[0].users
    assert run.encoded_items(batches) == []
    assert run.training.optimization.cf_optimizer is given.optimization.cf_optimizer


@pytest.mark.parametrize(("learning_rate", "expected"), [(None, 1e-3), (0.05, 0.05)])
def test_ids_only_takes_the_runs_optimizer_rate_and_schedule(learning_rate, expected):
    given = m.with_adamw(m.make_training(), rate=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(given.optimization.encoder_optimizer, lambda step: 1 / (1 + step))
    given.optimization.encoder_scheduler = schedule
    run = IdsOnly(given, IdsOnly.Settings(learning_rate=learning_rate))
    own = run.training.optimization
    assert type(own.encoder_optimizer) is torch.optim.AdamW
    assert own.encoder_optimizer.param_groups[0]["lr"] == pytest.approx(expected)
    assert own.encoder_optimizer.param_groups[0]["weight_decay"] == 0
    run.step(m.make_batch())
    assert own.encoder_optimizer.param_groups[0]["lr"] == pytest.approx(expected / 2)
    assert schedule.last_epoch == 0, "the encoder's own schedule must not move"


def test_ids_only_without_an_encoder_optimizer_leaves_its_rows():
    given = m.with_adamw(m.make_training())
    given.optimization.encoder_optimizer = None
    run = IdsOnly(given)
    start = run.training.encoder.rows.detach().clone()
    run.step(m.make_batch())
    assert torch.equal(run.training.encoder.rows, start)
