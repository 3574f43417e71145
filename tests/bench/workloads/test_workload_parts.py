"""What workloads are made of: texts tokenised once, and negatives drawn evenly."""

from collections import Counter

import numpy as np

from bench.workloads._io import tokens
from bench.workloads._log import interaction_log
from bench.workloads._sampling import negatives

ITEMS = 40
HISTORIES = [[3, 7, 3, 30], [1], list(range(0, 40, 2)), list(range(38)), [39, 38, 0], [2, 4]]
"""Items met by six users: twice, outside of the pool only, every other one, nearly all, at its ends, none of it."""
MEMBERS = np.isin(np.arange(ITEMS), [1, 2, 4], invert=True)
"""The pool."""


def log_of(histories):
    items = np.concatenate(histories).astype(np.int32)
    starts = np.cumsum([0, *map(len, histories)])
    return interaction_log.InteractionLog(starts, items, np.zeros(len(items), np.uint8), starts[:-1], ITEMS)


def test_negatives_are_the_items_of_the_pool_that_the_user_never_met():
    """By hand: the numbers drawn say which of a user's unmet items, in order; what isn't there is marked at the end.

    One counted wrongly past the met ones would be met, twice in a row, or outside of the pool.
    """
    pool, users = negatives.Pool(log_of(HISTORIES), MEMBERS), np.asarray([0, 3, 1, 2, 3, 5, 4, 0])
    unmet = [np.setdiff1d(np.flatnonzero(MEMBERS), history) for history in HISTORIES]
    for seed in range(50):
        found, there = pool.draw(np.random.default_rng(seed), users, 4)
        chosen = negatives.distinct(np.random.default_rng(seed), np.asarray([len(unmet[user]) for user in users]), 4)
        for row, user in enumerate(users):
            assert there[row].tolist() == (chosen[row] >= 0).tolist()
            assert found[row][there[row]].tolist() == unmet[user][chosen[row][there[row]]].tolist()
    assert there.sum(axis=1).tolist() == [4, 2, 4, 4, 2, 4, 4, 4]
    assert pool.fewest_left() == 2


def test_nobody_draws_nothing():
    """A scored batch may hold no cold click, and a log no cold item."""
    for members in (MEMBERS, np.zeros(ITEMS, dtype=bool)):
        pool = negatives.Pool(log_of(HISTORIES), members)
        found, there = pool.draw(np.random.default_rng(0), np.empty(0, dtype=np.int64), 4)
        assert found.shape == there.shape == (0, 4)
    found, there = pool.draw(np.random.default_rng(0), np.asarray([0, 1]), 4)
    assert found.shape == (2, 4)
    assert not there.any()


def test_every_unmet_item_is_drawn_as_often():
    """Of the 19 unmet items of the pool that a user has left, in 4 draws of 19,000 each comes about 4,000 times."""
    pool = negatives.Pool(log_of(HISTORIES), MEMBERS)
    found, there = pool.draw(np.random.default_rng(0), np.full(19_000, 2), 4)
    assert there.all()
    often = np.bincount(found.ravel(), minlength=ITEMS)
    assert np.count_nonzero(often) == 19
    assert 3_750 < often[often > 0].min() <= often.max() < 4_250


def test_negatives_are_uniform_over_what_a_user_may_draw():
    """Of all ordered pairs below 4, each comes about as often; none has a number twice."""
    pairs = negatives.distinct(np.random.default_rng(0), np.full(12_000, 4), 2)
    found = Counter(map(tuple, pairs.tolist()))
    assert len(found) == 12
    assert min(found.values()) > 850
    assert max(found.values()) < 1_150


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
        found, offsets = tokens.tokenized(texts, tokenizer)
        assert found.tolist() == [0, 1, 0, 1, 2]
        assert offsets.tolist() == [0, 2, 5]
    assert tokenizer.calls == 1
    tokens.tokenized(["a", "film another film here"], tokenizer)
    assert tokenizer.calls == 2, "texts that join to the same words are other texts"
    for kept in (tmp_path / "tokens").iterdir():
        kept.write_bytes(kept.read_bytes()[:40])
    assert tokens.tokenized(texts, tokenizer)[0].tolist() == [0, 1, 0, 1, 2]
    assert tokenizer.calls == 3, "a damaged file of the cache is made again"
