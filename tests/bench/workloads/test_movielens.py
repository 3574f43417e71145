"""Workload movielens: the log is read as it was written, trained on whole, and seeded."""

from collections import Counter

import pytest
import torch

from bench.workloads import movielens
from bench.workloads._io import movielens_files
from tests.bench._bert_texts import SEP, request, same, tokenizer_of


@pytest.fixture(scope="module")
def folder(asset):
    """The log's folder."""
    return asset("movielens")


@pytest.fixture(scope="module")
def build(asset):
    """A function: changes to the request -> the movielens workload."""
    asset("movielens"), asset("films")
    tokenizer = tokenizer_of(asset)

    def built(options=None, **changes):
        changes = {"batch_size": 64, "history_length": 20, "tokenizer": tokenizer, **changes}
        return movielens.build(movielens.Settings(**(options or {})), request(**changes))

    return built


@pytest.fixture(scope="module")
def histories(folder):
    """Per user, (item, rating) in the order of time, read without any code of ours; items from 0."""
    rows = [line.split("\t") for line in (folder / "ml-100k.inter").read_text().splitlines()[1:]]
    users = {}
    for user, item, rating, timestamp in rows:
        users.setdefault(user, []).append((int(timestamp), int(item) - 1, int(rating)))
    return [[(item, rating) for _, item, rating in sorted(rated, key=lambda row: row[0])] for rated in users.values()]


def test_movielens_is_whole(build):
    facts = build().facts
    assert (facts["users"], facts["items"], facts["ratings"]) == (943, 1_682, 100_000)
    assert facts["examples"] == 100_000 - 943
    assert facts["items_with_known_film"] == 1_383
    assert facts["share_of_ratings_with_known_film"] == 0.93203


def test_texts_tell_of_the_film(asset, folder):
    films = movielens_files.read_log(folder).films
    full, known = movielens_files.film_texts(films, asset("films"), "full")
    titles, _ = movielens_files.film_texts(films, asset("films"), "title")
    assert titles[0] == "Toy Story (1995). Animation, Children's, Comedy."
    assert full[0].startswith("Toy Story (1995). Animation, Children's, Comedy, Fantasy, Adventure. Directed by John L")
    assert full[54].startswith("The Professional (1994). Crime, Drama, Romance, Thriller.")
    assert [text for text, joined in zip(full, known, strict=True) if not joined] == [
        text for text, joined in zip(titles, known, strict=True) if not joined
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [("Professional, The", "The professional"), ("Misérables, Les", "Les Miserables"), ("Seven (Se7en)", "Seven")],
)
def test_titles_are_compared_without_their_dress(one, other):
    assert movielens_files.normalised(one) == movielens_files.normalised(other)


def test_slots_are_the_latest_films_before_the_clicked_one(build, histories):
    """Every row of a few batches is looked up in the plain log: the history, its order, its padding, the negatives."""
    workload, rows = build(), 0
    seen = {}
    for history in histories:
        items = [item for item, _ in history]
        rated = set(items)
        for place in range(1, len(items)):
            seen.setdefault((tuple(items[max(0, place - 20) : place]), items[place]), []).append(rated)
    for step in (0, 1, workload.steps_per_epoch - 1, workload.steps_per_epoch + 3):
        batch = workload.batches(step)
        assert batch.history_length == 20
        assert batch.items.shape == (64, 25)
        for items, mask, clicked in zip(batch.items, batch.mask, batch.targets, strict=True):
            padding = int((~mask).sum())
            assert not mask[:padding].any(), "padding is on the left"
            candidates = items[20:].tolist()
            target = candidates.pop(int(clicked))
            users = seen[tuple(items[padding:20].tolist()), target]
            assert any(rated.isdisjoint(candidates) for rated in users), "a negative was rated by the user"
            assert len(set(candidates)) == 4
            rows += 1
    assert rows == 256


def test_every_target_comes_at_most_once_in_an_epoch(build, histories):
    workload = build(batch_size=1_000, history_length=2, candidates=2)
    possible = Counter(item for history in histories for item, _ in history[1:])

    def clicked(epoch):
        found = []
        for step in range(epoch * workload.steps_per_epoch, (epoch + 1) * workload.steps_per_epoch):
            batch = workload.batches(step)
            found += batch.items[:, 2:].gather(1, batch.targets[:, None]).flatten().tolist()
        return found

    first, second = clicked(0), clicked(1)
    assert workload.steps_per_epoch == 99
    assert len(first) == 99_000
    assert not Counter(first) - possible
    assert not Counter(second) - possible
    assert first != second


def test_the_clicked_film_is_at_every_place_alike(build):
    workload = build(batch_size=1_000)
    found = Counter(torch.cat([workload.batches(step).targets for step in range(5)]).tolist())
    assert set(found) == {0, 1, 2, 3, 4}
    assert max(found.values()) < 1.2 * min(found.values())


def test_movielens_depends_on_seed_and_step_alone(build):
    first, again, other = build(seed=3), build(seed=3), build(seed=4)
    late = first.batches(2_000)
    assert same([again.batches(step) for step in (0, 5_000, 2_000)][2], late)
    assert not same(other.batches(2_000), late)
    assert not same(first.batches(2_001), late)


def test_responses_are_every_rating_once(build, histories):
    workload = build(task="response", batch_size=1, history_length=100)
    positives = slots = 0
    stretches = Counter()
    for step in range(workload.steps_per_epoch):
        batch = workload.batches(step)
        assert batch.items.shape == batch.targets.shape == (1, 100)
        slots += batch.item_slots
        positives += int(batch.targets.sum())
        stretches[tuple(zip(batch.items[batch.mask].tolist(), batch.targets[batch.mask].tolist(), strict=True))] += 1
    assert slots == 100_000
    assert positives == 55_375
    expected = Counter()
    for history in histories:
        for end in range(len(history), 0, -100):
            expected[tuple((item, float(rating >= 4)) for item, rating in history[max(0, end - 100) : end])] += 1
    assert stretches == expected


def test_texts_are_cut_at_the_text_length_and_closed(build):
    short, long = build(text_length=16).table, build(text_length=600).table
    assert int(short.lengths.max()) == 16
    cut = torch.nonzero(long.lengths > 16).flatten()
    assert len(cut) > 1_000
    for item in cut[:20]:
        tokens = short.texts(item[None]).tokens.tolist()
        assert tokens[:-1] == long.texts(item[None]).tokens.tolist()[:15]
        assert tokens[-1] == SEP


def test_titles_only_are_shorter(build):
    assert build(options={"texts": "title"}, text_length=600).facts["mean_text_tokens"] < 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_repetition_ratio": 2.0}, "cannot be asked of movielens"),
        ({"tokenizer": None}, "this encoder has no tokenizer"),
        ({"batch_size": 200_000}, "batch_size = 200000 is more than the 99057 examples"),
        ({"candidates": 1_000}, "leaves only 945 items unmet"),
    ],
)
def test_what_movielens_cannot_be_is_one_clear_sentence(build, changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)
