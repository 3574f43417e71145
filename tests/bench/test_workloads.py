"""Workloads: the asked-for repetition is the realised one, the log is read as it was written, and all is seeded."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.encoders._base import AssetTokenizer
from bench.workloads import _movielens_files, _negatives, _tokens, _zipf, movielens, synthetic
from bench.workloads._base import MalformedData, WorkloadRequest

CLS, SEP, SPECIAL = 101, 102, frozenset({0, 100, 101, 102, 103})


def request(**changes):
    """BERT's conventions for texts, and a small case."""
    case = {
        "batch_size": 8,
        "history_length": 10,
        "text_length": 32,
        "seed": 0,
        "vocab_size": 30_522,
        "pad_token_id": 0,
        "opening_token_id": CLS,
        "closing_token_id": SEP,
        "special_token_ids": SPECIAL,
    }
    return WorkloadRequest(**{**case, **changes})


def synthesize(ratio=2.0, options=None, **changes):
    return synthetic.build(
        synthetic.Settings(**{"items": 500, **(options or {})}), request(item_repetition_ratio=ratio, **changes)
    )


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("items", "mask", "targets"))


@st.composite
def cases(draw):
    """Any batch with any ratio that it allows."""
    users = draw(st.integers(1, 12))
    return {
        "batch_size": users,
        "history_length": draw(st.integers(1, 12)),
        "candidates": draw(st.integers(2, 6)),
        "task": draw(st.sampled_from(["ranking", "response"])),
        "ratio": draw(st.floats(1, users)),
        "options": {"zipf": draw(st.sampled_from([0.0, 0.7, 1.0, 3.0]))},
    }


@given(case=cases(), step=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_asked_for_ratio_is_realised_exactly(case, step):
    workload = synthesize(**case)
    batch = workload.batches(step)
    users, slots = batch.items.shape
    unique = len(batch.items.unique())
    assert slots == case["history_length"] + (case["candidates"] if case["task"] == "ranking" else 0)
    assert unique == round(users * slots / case["ratio"])
    assert workload.facts["item_repetition_ratio"] == batch.item_slots / unique
    assert all(len(row.unique()) == slots for row in batch.items), "an item appears twice with one user"


@given(data=st.data(), unique=st.integers(1, 200), most=st.integers(1, 50), exponent=st.floats(0, 4))
@settings(max_examples=150, deadline=None)
def test_counts_fall_with_the_rank_and_sum_to_the_slots(data, unique, most, exponent):
    slots = data.draw(st.integers(unique, unique * most))
    counts = _zipf.counts(slots, unique, most, exponent)
    assert counts.sum() == slots
    assert counts.min() >= 1
    assert counts.max() <= most
    assert (np.diff(counts) <= 0).all()


def test_counts_follow_zipf_where_no_bound_holds_them():
    ranks = np.arange(1, 21)
    for exponent in (0.5, 1.0, 2.0):
        counts = _zipf.counts(100_000, 20, 100_000, exponent)
        expected = 100_000 * ranks**-exponent / (ranks**-exponent).sum()
        assert np.abs(counts - expected).max() <= 1
    with pytest.raises(ValueError, match="cannot hold"):
        _zipf.counts(10, 11, 5, 1.0)


def test_popularity_within_a_batch_is_the_counts():
    batch = synthesize(ratio=4.0, options={"zipf": 1.0}, batch_size=16).batches(0)
    _, found = batch.items.unique(return_counts=True)
    expected = _zipf.counts(16 * 15, 60, 16, 1.0)
    assert sorted(found.tolist(), reverse=True) == expected.tolist()


@pytest.mark.parametrize(("zipf", "skewed"), [(1.0, True), (0.0, False)])
def test_popular_items_come_back_from_batch_to_batch(zipf, skewed):
    """Multi-step training lives off this: with other items in every batch, it would save nothing."""
    workload = synthesize(ratio=2.0, options={"zipf": zipf})
    seen = Counter(item for step in range(200) for item in workload.batches(step).items.unique().tolist())
    head, tail = (np.mean([seen[item] for item in items]) for items in (range(20), range(480, 500)))
    assert (head > 3 * tail) == skewed
    assert (head < 1.5 * tail) == (not skewed)


@pytest.mark.parametrize("task", ["ranking", "response"])
def test_a_batch_depends_on_seed_and_step_alone(task):
    first, again, other = (synthesize(seed=seed, task=task) for seed in (1, 1, 2))
    late = first.batches(7)
    assert same([again.batches(step) for step in range(8)][7], late)
    assert torch.equal(first.table.tokens, again.table.tokens)
    assert not same(first.batches(6), late)
    assert not same(other.batches(7), late)
    assert not torch.equal(first.table.lengths, other.table.lengths)


def test_targets_are_of_the_task():
    ranking = [synthesize().batches(step).targets for step in range(30)]
    assert ranking[0].shape == (8,)
    assert set(torch.cat(ranking).tolist()) == {0, 1, 2, 3, 4}
    response = synthesize(task="response").batches(0)
    assert response.targets.shape == response.items.shape == (8, 10)
    assert set(response.targets.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("vocabulary", [120, 30_522])
def test_texts_open_and_close_and_hold_no_special_token_between(vocabulary):
    table = synthesize(vocab_size=vocabulary).table
    for item in range(0, 500, 50):
        first, *inside, last = table.texts(torch.tensor([item])).tokens.tolist()
        assert (first, last) == (CLS, SEP)
        assert inside
        assert not SPECIAL & set(inside)
        assert max(inside) < vocabulary


def test_text_lengths_have_the_stated_distribution():
    def lengths(**options):
        options = {"items": 20_000, **options}
        return synthesize(options=options, text_length=64).table.lengths.double()

    uniform = lengths(text_tokens="uniform")
    assert (uniform.min(), uniform.max()) == (16, 64)
    assert abs(float(uniform.mean()) / 64 - 0.625) < 0.01
    assert set(lengths(text_tokens="full").tolist()) == {64}
    lognormal = lengths(text_tokens="lognormal", lognormal_mean=0.25, lognormal_sigma=0.3)
    assert abs(float(lognormal.mean()) / 64 - 0.25) < 0.01
    assert abs(float(lognormal.log().std()) - 0.3) < 0.02
    assert lengths(text_tokens="lognormal", lognormal_mean=4.0).max() == 64


def test_corpus_lengths_are_those_of_the_films(asset):
    folder = asset("movielens")
    tokenizer = tokenizer_of(asset)
    films = _movielens_files.read_log(folder).films
    texts, _ = _movielens_files.film_texts(films, asset("films"), "full")
    real = np.diff(_tokens.tokenized(texts, tokenizer)[1]).clip(max=64)
    options = {"text_tokens": "corpus", "items": 20_000}
    found = synthesize(options=options, text_length=64, tokenizer=tokenizer).table.lengths.numpy()
    assert set(found.tolist()) <= set(real.tolist())
    assert abs(found.mean() - real.mean()) < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": 0.5}, "ratio = 0.5 is out of reach: .* between 1 and the batch_size, 8"),
        ({"ratio": 9.0}, "ratio = 9 is out of reach: .* between 1 and the batch_size, 8"),
        ({"ratio": None}, "needs an item_repetition_ratio"),
        ({"ratio": float("nan")}, "out of reach"),
        ({"options": {"items": 59}}, r"needs 60 unique items in a batch, more than workload\.synthetic\.items = 59"),
        ({"options": {"text_tokens": "corpus"}}, "needs an encoder that has a tokenizer"),
    ],
)
def test_what_cannot_be_synthesized_is_one_clear_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        synthesize(**changes)


def tokenizer_of(asset):
    asset("minilm")
    return AssetTokenizer("minilm")


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
    films = _movielens_files.read_log(folder).films
    full, known = _movielens_files.film_texts(films, asset("films"), "full")
    titles, _ = _movielens_files.film_texts(films, asset("films"), "title")
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
    assert _movielens_files.normalised(one) == _movielens_files.normalised(other)


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


def test_negatives_are_uniform_over_what_a_user_may_draw():
    """Of all ordered pairs below 4, each comes about as often; none has a number twice."""
    pairs = _negatives.distinct(np.random.default_rng(0), np.full(12_000, 4), 2)
    found = Counter(map(tuple, pairs.tolist()))
    assert len(found) == 12
    assert min(found.values()) > 850
    assert max(found.values()) < 1_150


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


LOG = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEMS = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\tToy Story\t1995\tComedy\n"


@pytest.mark.parametrize(
    ("log", "items", "message"),
    [
        (LOG + "1\t1\t3\t9\n1\t1\t3\n", ITEMS, r"ml-100k\.inter, line 3: expected 4 fields, found 3"),
        (LOG + "1\t1\tthree\t9\n", ITEMS, r"ml-100k\.inter, line 2: .* must be whole"),
        (LOG + "1\t2\t3\t9\n", ITEMS, r"ml-100k\.inter, line 2: item 2 is not in ml-100k\.item"),
        (LOG + "1\t1\t6\t9\n", ITEMS, r"ml-100k\.inter, line 2: rating 6 is not between 1 and 5"),
        (LOG, ITEMS, r"ml-100k\.inter, line 2: there is no rating"),
        ("", ITEMS, r"ml-100k\.inter, line 1: the file is empty"),
        (LOG.replace("rating", "stars"), ITEMS, r"ml-100k\.inter, line 1: expected the columns user_id:token"),
        (LOG + "1\t1\t3\t9\n", ITEMS + "x\tHeat\t1995\tCrime\n", r"ml-100k\.item, line 3: expected a whole item"),
        (LOG + "1\t1\t3\t9\n", ITEMS + "1\tHeat\t1995\tCrime\n", r"ml-100k\.item: an item number appears twice"),
    ],
)
def test_malformed_data_is_an_error_naming_file_and_line(tmp_path, log, items, message):
    (tmp_path / "ml-100k.inter").write_text(log)
    (tmp_path / "ml-100k.item").write_text(items)
    with pytest.raises(MalformedData, match=message):
        _movielens_files.read_log(tmp_path)


def test_bytes_that_are_no_text_or_no_database_are_errors_naming_the_file(tmp_path):
    (tmp_path / "ml-100k.item").write_bytes(ITEMS.encode() + b"\xff\xfe")
    with pytest.raises(MalformedData, match=r"ml-100k\.item, after line \d: not UTF-8"):
        _movielens_files.read_log(tmp_path)
    (tmp_path / "movies.db").write_text("no database " * 1_000)
    film = _movielens_files.Film("Heat", 1995, ())
    with pytest.raises(MalformedData, match=r"movies\.db: no film can be read"):
        _movielens_files.film_texts((film,), tmp_path, "full")


class CountingTokenizer:
    """One token per word, and how often it was asked."""

    fingerprint = "words"
    special_token_ids = frozenset()

    def __init__(self):
        self.calls = 0

    def encode(self, texts):
        self.calls += 1
        return [list(range(len(text.split()))) for text in texts]


def test_texts_are_tokenised_once(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAM_BENCH_CACHE", str(tmp_path))
    tokenizer, texts = CountingTokenizer(), ["a film", "another film here"]
    for _ in range(2):
        tokens, offsets = _tokens.tokenized(texts, tokenizer)
        assert tokens.tolist() == [0, 1, 0, 1, 2]
        assert offsets.tolist() == [0, 2, 5]
    assert tokenizer.calls == 1
    _tokens.tokenized(["a", "film another film here"], tokenizer)
    assert tokenizer.calls == 2, "texts that join to the same words are other texts"
    for kept in (tmp_path / "tokens").iterdir():
        kept.write_bytes(kept.read_bytes()[:40])
    assert _tokens.tokenized(texts, tokenizer)[0].tolist() == [0, 1, 0, 1, 2]
    assert tokenizer.calls == 3, "a damaged file of the cache is made again"


def test_checking_a_workload_does_not_import_torch():
    """Configuration is checked before any work: it must be instant."""
    code = (
        "import sys\nfrom bench import registry\n"
        "for module in registry.discover('bench.workloads').values():\n"
        "    module.Settings(), module.check, module.build, module.ASSETS, module.TAKES_REPETITION_RATIO\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
