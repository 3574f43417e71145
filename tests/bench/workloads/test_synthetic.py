"""Workload synthetic: the asked-for repetition is the realised one, and all is seeded."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.workloads import synthetic
from bench.workloads._io import movielens_files, tokens
from bench.workloads._synth import laws
from tests.bench._bert_texts import CLS, SEP, SPECIAL, request, same, tokenizer_of


def synthesize(ratio=2.0, options=None, **changes):
    return synthetic.build(
        synthetic.Settings(**{"items": 500, **(options or {})}), request(item_repetition_ratio=ratio, **changes)
    )


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
@settings(max_examples=60)
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
@settings(max_examples=150)
def test_counts_fall_with_the_rank_and_sum_to_the_slots(data, unique, most, exponent):
    slots = data.draw(st.integers(unique, unique * most))
    counts = laws.counts(slots, unique, most, exponent)
    assert counts.sum() == slots
    assert counts.min() >= 1
    assert counts.max() <= most
    assert (np.diff(counts) <= 0).all()


def test_counts_follow_zipf_where_no_bound_holds_them():
    ranks = np.arange(1, 21)
    for exponent in (0.5, 1.0, 2.0):
        counts = laws.counts(100_000, 20, 100_000, exponent)
        expected = 100_000 * ranks**-exponent / (ranks**-exponent).sum()
        assert np.abs(counts - expected).max() <= 1
    with pytest.raises(ValueError, match="cannot hold"):
        laws.counts(10, 11, 5, 1.0)


def test_popularity_within_a_batch_is_the_counts():
    batch = synthesize(ratio=4.0, options={"zipf": 1.0}, batch_size=16).batches(0)
    _, found = batch.items.unique(return_counts=True)
    expected = laws.counts(16 * 15, 60, 16, 1.0)
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
    films = movielens_files.read_log(folder).films
    texts, _ = movielens_files.film_texts(films, asset("films"), "full")
    real = np.diff(tokens.tokenized(texts, tokenizer)[1]).clip(max=64)
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
