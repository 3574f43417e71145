"""Mathematics 6: evaluation scores every item with the content encoder, never with a pseudo-target."""

import pytest
import torch

from gram_core.batch import unique_items
from gram_core.evaluation import encode_all, score
from gram_core.methods.multi_step import MultiStep
from gram_core.training import gather_slots
from tests.gram_core import _models as m

everything = pytest.mark.parametrize("cf_module", m.CF_MODULES)


def plain_scores(training, batch):
    """Each slot's item encoded on its own, models in evaluation mode."""
    training.encoder.eval(), training.cf_module.eval()
    with torch.no_grad():
        zero = torch.zeros(training.encoder.width, dtype=torch.float64)
        rows = [
            [training.encoder(training.table.texts(torch.tensor([int(i)])))[0] if there else zero for i, there in pairs]
            for pairs in (zip(*row, strict=True) for row in zip(batch.items, batch.mask, strict=True))
        ]
        scores = training.cf_module.scores(torch.stack([torch.stack(row) for row in rows]), batch)
    training.encoder.train(), training.cf_module.train()
    return scores


@everything
def test_scores_within_an_open_interval_come_from_the_encoder(cf_module):
    """Warm items' moved encodings would give other scores: shown, not assumed."""
    task = m.CF_MODULES[cf_module].task
    training = m.with_adamw(m.make_training(cf_module=cf_module), rate=1e-2)
    training.optimization.cf_optimizer = torch.optim.SGD(training.cf_module.parameters(), lr=0.0)
    run = MultiStep(training, MultiStep.Settings(accumulation_steps=3))
    batch = m.make_batch(task)
    for _ in range(2):
        run.step(batch)
    assert len(run._buffer) > 0
    warm = set(batch.items[batch.mask].tolist())
    mixed = m.make_batch(task, seed=77)
    cold = set(mixed.items[mixed.mask].tolist()) - warm
    assert cold
    expected = [plain_scores(training, each) for each in (batch, mixed)]
    for found, plain in zip(score(training, [batch, mixed], batch_tokens=20), expected, strict=True):
        assert float((found - plain).abs().max()) <= 1e-11

    selection = unique_items(batch)
    moved = gather_slots(run._buffer.moved(selection.items), selection.slot_rows)
    with torch.no_grad():
        assert float((training.cf_module.scores(moved, batch) - expected[0]).abs().max()) > 1e-4

    run.finish()
    after = score(training, [batch])[0]
    assert float((after - expected[0]).abs().max()) > 1e-4, "the update that finish makes must show"
    assert float((after - plain_scores(training, batch)).abs().max()) <= 1e-11


def test_encode_all_takes_items_in_order_and_any_budget():
    training = m.make_training()
    items = torch.tensor([5, 0, 5, 23])
    whole = encode_all(training, items)
    assert whole.shape == (4, training.encoder.width)
    assert not whole.requires_grad
    assert torch.equal(whole[0], whole[2])
    for budget in (1, 9, 17):
        assert float((encode_all(training, items, budget) - whole).abs().max()) <= 1e-12
    assert float((encode_all(training, items[:1]) - encode_all(training, items[1:2])).abs().max()) > 1e-2


def test_evaluation_drops_nothing_and_restores_every_part():
    """A frozen part left in evaluation mode by its user stays there; the rest trains on, even after an error."""
    training = m.make_training(m.make_encoder(dropout=0.4))
    frozen = training.encoder.model.embeddings
    frozen.eval()
    modes = [module.training for module in training.encoder.modules()]
    batch = m.make_batch()
    first, second = score(training, [batch])[0], score(training, [batch])[0]
    assert torch.equal(first, second)
    assert [module.training for module in training.encoder.modules()] == modes
    assert not frozen.training
    assert training.encoder.model.encoder.training
    assert training.cf_module.training
    too_long = m.make_table()
    training.table = type(too_long).from_lists([[7] * (m.TEXT_LENGTH + 1)] * m.ITEMS)
    with pytest.raises(ValueError, match="truncate the table"):
        score(training, [batch])
    assert [module.training for module in training.encoder.modules()] == modes


def test_evaluation_touches_no_gradient():
    training = m.make_training()
    score(training, [m.make_batch()])
    assert all(parameter.grad is None for part in m.modules_of(training).values() for parameter in part.parameters())


def test_gathered_padding_slots_read_zeros():
    encodings = torch.arange(6.0).view(3, 2)
    slots = gather_slots(encodings, torch.tensor([[2, -1], [0, 0]]))
    assert slots.tolist() == [[[4.0, 5.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]
