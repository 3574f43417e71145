"""What is held out is scored and never trained on, and cold items are in nothing that training sees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.workloads._base import HoldOut, WorkloadRequest
from bench.workloads._log import interaction_log, ranking, responses
from bench.workloads._sampling import epoch_sampler
from bench.workloads._sampling.epoch_sampler import Permutation
from gram_core.batch import ItemTable

USERS, ITEMS = 60, 80
HOLD_OUT = HoldOut(validation=0.1, test=0.2, cold_items=20)


def request(task, **changes):
    case = {"batch_size": 4, "history_length": 6, "text_length": 8, "seed": 0, "vocab_size": 50, "pad_token_id": 0}
    texts = {"closing_token_id": None, "candidates": 4, "task": task, "hold_out": HOLD_OUT}
    return WorkloadRequest(**{**case, **texts, **changes})


@pytest.fixture(scope="module")
def log():
    """60 users with 5 to 30 different items of 80; the label tells the item's parity."""
    rng = np.random.default_rng(0)
    histories = [rng.permutation(ITEMS)[: rng.integers(5, 31)] for _ in range(USERS)]
    items = np.concatenate(histories).astype(np.int32)
    starts = np.cumsum([0, *map(len, histories)])
    return interaction_log.InteractionLog(starts, items, (items % 2).astype(np.uint8), starts[:-1], ITEMS)


@pytest.fixture(scope="module")
def build(log):
    def built(task, options=None, **changes):
        asked = request(task, **changes)
        chosen = epoch_sampler.LogSettings(**(options or {}))
        make = ranking.examples(log, chosen, asked, "it") if task == "ranking" else None
        made = make or responses.examples(log, chosen, asked)
        table = ItemTable.from_lists([[1]] * ITEMS)
        return epoch_sampler.workload(made, table, asked, "it", {})

    return built


def epoch(workload):
    return [workload.batches(step) for step in range(workload.steps_per_epoch)]


def scored(held_out):
    return [held_out.batches(step) for step in range(held_out.steps)]


@pytest.mark.parametrize("task", ["ranking", "response"])
def test_training_meets_no_cold_item(build, task):
    workload = build(task, batch_size=1)
    cold = set(workload.cold_items.tolist())
    assert len(cold) == 20
    assert workload.cold_items.tolist() == sorted(cold)
    met = set(torch.cat([batch.items[batch.mask] for batch in epoch(workload)]).tolist())
    assert not met & cold
    assert len(met) == ITEMS - 20, "every warm item is trained on, so the check above looked at the whole log"


def test_each_users_last_clicks_are_scored_and_not_trained_on(build, log):
    """Targets are found again by (history, item): of training, validation and test they are the log's in this order."""
    workload = build("ranking", {"scored_examples": "all"}, batch_size=1, history_length=40)
    cold = set(workload.cold_items.tolist())
    expected = {"train": [], "validation": [], "test": []}
    for user in range(USERS):
        items = log.items[log.starts[user] : log.starts[user + 1]].tolist()
        tested, validated = int(len(items) * 0.2 + 0.5), int(len(items) * 0.1 + 0.5)
        ends = (len(items) - tested - validated, len(items) - tested)
        for place in range(1, len(items)):
            split = "train" if place < ends[0] else "validation" if place < ends[1] else "test"
            hidden = cold if split == "train" else set()
            if split != "train" or items[place] not in cold:
                seen = tuple(item for item in items[:place] if item not in hidden)
                expected[split].append((seen, items[place]))

    def found(batches):
        rows = []
        for batch in batches:
            for items, mask, clicked in zip(batch.items, batch.mask, batch.targets, strict=True):
                rows.append((tuple(items[:40][mask[:40]].tolist()), int(items[40 + clicked])))
        return sorted(rows)

    assert found(epoch(workload)) == sorted(expected["train"])
    assert found(each.batch for each in scored(workload.validation)) == sorted(expected["validation"])
    assert found(each.batch for each in scored(workload.test)) == sorted(expected["test"])


def test_warm_clicks_stand_among_warm_items_and_cold_ones_among_cold(build, log):
    """Else a model without content could tell them apart by their being new."""
    workload = build("ranking", {"scored_candidates": 12})
    cold = set(workload.cold_items.tolist())
    met = {user: set(log.items_of(user).tolist()) for user in range(USERS)}
    kinds = []
    for each in scored(workload.test):
        batch = each.batch
        for row in range(batch.users):
            shown = batch.items[row, 6:][batch.mask[row, 6:]].tolist()
            clicked = int(batch.items[row, 6 + batch.targets[row]])
            assert (clicked in cold) == bool(each.cold[row])
            assert {item in cold for item in shown} == {bool(each.cold[row])}
            assert len(set(shown)) == len(shown) > 2
            assert any(items & set(shown) == {clicked} for items in met.values()), "a negative was met by the user"
            kinds.append(bool(each.cold[row]))
    assert 20 < sum(kinds) < len(kinds) - 20


def test_whole_users_are_scored_in_response_prediction(build, log):
    workload = build("response", {"scored_examples": "all"}, batch_size=1, history_length=40)
    cold = set(workload.cold_items.tolist())

    def rows(batches):
        return [tuple(batch.items[row][batch.mask[row]].tolist()) for batch in batches for row in range(batch.users)]

    users = [tuple(log.items[log.starts[user] : log.starts[user + 1]].tolist()) for user in range(USERS)]
    held_out = rows(each.batch for each in scored(workload.validation) + scored(workload.test))
    assert len(held_out) == len(set(held_out)) == 6 + 12
    assert set(held_out) < set(users)
    warm = [tuple(item for item in user if item not in cold) for user in users if user not in held_out]
    assert sorted(rows(epoch(workload))) == sorted(warm)
    for each in scored(workload.test):
        assert torch.equal(each.cold, torch.isin(each.batch.items, workload.cold_items) & each.batch.mask)
        assert torch.equal(each.batch.targets, (each.batch.items % 2) * each.batch.mask)
        assert 0 < int(each.cold.sum()) < int(each.batch.mask.sum())


@pytest.mark.parametrize("task", ["ranking", "response"])
def test_what_is_held_out_depends_on_the_seed_alone(build, task):
    first, again, other = build(task), build(task, batch_size=9), build(task, seed=1)
    one, same, different = (workload.test.batches(0).batch for workload in (first, again, other))
    assert torch.equal(one.items, same.items)
    assert torch.equal(first.cold_items, again.cold_items)
    assert not torch.equal(first.cold_items, other.cold_items)
    assert one.items.shape != different.items.shape or not torch.equal(one.items, different.items)


def test_the_scored_are_no_more_than_asked_for(build):
    test = build("ranking", {"scored_examples": 7}).test
    cold = torch.cat([each.cold for each in scored(test)])
    assert (int(cold.sum()), int((~cold).sum())) == (7, 7)


@pytest.mark.parametrize(
    ("hold_out", "message"),
    [
        (HoldOut(0.1, 0.1, 41), "train.cold_items = 41 is more than half of the 80 items"),
        (HoldOut(0.001, 0.1, 2), "train.validation = 0.001 leaves nothing of it to score"),
    ],
)
def test_what_cannot_be_held_out_is_one_clear_sentence(build, hold_out, message):
    with pytest.raises(ValueError, match=message):
        build("response", hold_out=hold_out)


def test_a_share_of_the_catalogue_can_be_cold(build):
    assert len(build("ranking", hold_out=HoldOut(0.1, 0.1, 0.25)).cold_items) == 20


@pytest.mark.parametrize("at_once", [1, 12, 1 << 20])
def test_steps_are_the_same_however_many_are_put_in_order_at_once(build, monkeypatch, at_once):
    """Whatever step is asked for after whatever other: a resumed run begins in the middle, ranks take every n-th."""
    expected = build("ranking")
    steps = np.random.default_rng(0).permutation(3 * expected.steps_per_epoch).tolist()
    monkeypatch.setattr(epoch_sampler, "ORDERED_AT_ONCE", at_once)
    found = build("ranking")
    assert all(torch.equal(found.batches(step).items, expected.batches(step).items) for step in steps)


def test_an_epoch_follows_its_order(build, log):
    """Else examples would come twice, or each epoch in the same order."""
    made = ranking.examples(log, epoch_sampler.LogSettings(), request("ranking"), "it")
    workload = build("ranking")
    for epoch_number in range(2):
        order = Permutation(len(made.train), [0, 0, epoch_number])(np.arange(4 * workload.steps_per_epoch))
        steps = [workload.batches(epoch_number * workload.steps_per_epoch + n) for n in range(workload.steps_per_epoch)]
        clicked = torch.cat([batch.items[torch.arange(4), 6 + batch.targets] for batch in steps])
        assert clicked.tolist() == log.items[made.train[order]].tolist()


@pytest.mark.parametrize("task", ["ranking", "response"])
def test_scored_batches_hold_no_more_slots_than_there_is_room_for(build, monkeypatch, task):
    """Long histories and many candidates would take gigabytes where only time was to be saved; nobody is left out
    or comes twice."""
    options = {"scored_examples": "all"}
    whole = build(task, options, history_length=40).test
    slots = whole.batches(0).batch.items.shape[1]
    assert (slots > 40) is (task == "ranking"), "candidates count"
    monkeypatch.setattr(epoch_sampler, "SCORED_SLOTS", 5 * slots + slots - 1)
    parts = build(task, options, history_length=40).test
    assert {each.batch.users for each in scored(parts)[:-1]} == {5}
    histories = [[each.batch.items[:, :40] for each in scored(split)] for split in (whole, parts)]
    assert torch.equal(torch.cat(histories[0]), torch.cat(histories[1]))
    monkeypatch.setattr(epoch_sampler, "SCORED_SLOTS", 39)
    assert build(task, options, history_length=40).test.batches(0).batch.users == 1


@given(n=st.integers(1, 5_000), seed=st.integers(0, 1_000))
@settings(max_examples=60)
def test_an_order_has_every_number_once(n, seed):
    order = Permutation(n, [seed])(np.arange(n))
    assert np.array_equal(np.sort(order), np.arange(n))


def test_an_order_is_a_random_one():
    """Neighbours end up as far apart as chance has it, any place holds any number, and seeds give other orders."""
    n = 10_000
    orders = [Permutation(n, [seed])(np.arange(n)) for seed in range(20)]
    assert len({tuple(order[:5]) for order in orders}) == 20
    for order in orders:
        assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 0.05
        assert abs(np.abs(np.diff(order)).mean() / (n / 3) - 1) < 0.05
    first = np.asarray([Permutation(n, [seed])(np.zeros(1, dtype=np.int64))[0] for seed in range(400)])
    assert 0.45 < first.mean() / n < 0.55
