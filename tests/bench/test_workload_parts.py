"""What workloads are made of: texts tokenised once, and negatives drawn evenly."""

from collections import Counter

import numpy as np

from bench.workloads import _negatives, _tokens


def test_negatives_are_uniform_over_what_a_user_may_draw():
    """Of all ordered pairs below 4, each comes about as often; none has a number twice."""
    pairs = _negatives.distinct(np.random.default_rng(0), np.full(12_000, 4), 2)
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
