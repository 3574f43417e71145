"""Token budgets, and mathematics 4: a recomputed chunk replays dropout's random state."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from gram_core.chunking import ChunkedEncoding, GraphBudget, RandomState, chunk_bounds
from gram_core.encoders.packed import PackedEncoder
from gram_core.exactness import relative_errors, total_norm
from tests.gram_core import _models as m
from tests.gram_core import _strategies as strategies

DROPOUT = 0.3


pytestmark = pytest.mark.usefixtures("float64")


@given(counts=st.lists(st.integers(1, 30), max_size=40), budget=st.none() | st.integers(1, 60))
def test_chunks_cover_all_texts_in_order_within_the_budget(counts, budget):
    """And as few as taking texts greedily gives, and even."""
    bounds = chunk_bounds(torch.tensor(counts, dtype=torch.int64), budget)
    assert [place for start, stop in bounds for place in range(start, stop)] == list(range(len(counts)))
    assert all(start < stop for start, stop in bounds)
    if budget is None:
        assert len(bounds) == min(1, len(counts))
        return
    sizes = [sum(counts[start:stop]) for start, stop in bounds]
    for size, (start, stop) in zip(sizes, bounds, strict=True):
        assert size <= budget or stop == start + 1
    assert len(bounds) == len(greedy(counts, budget))
    if max(counts, default=0) <= budget:
        assert all(size < sum(counts) / len(sizes) + max(counts) for size in sizes)


def greedy(counts, budget):
    """Sizes of chunks that take texts while they fit."""
    sizes = []
    for count in counts:
        if sizes and sizes[-1] + count <= budget:
            sizes[-1] += count
        else:
            sizes.append(count)
    return sizes


def test_no_chunk_is_a_small_rest():
    tokens = torch.full((1000,), 20)
    sizes = [20 * (stop - start) for start, stop in chunk_bounds(tokens, 16_384)]
    assert len(sizes) == 2
    assert max(sizes) - min(sizes) <= 40


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_below_one_is_refused(budget):
    with pytest.raises(ValueError, match="at least 1"):
        chunk_bounds(torch.tensor([3]), budget)


def encoder_gradients(training, items, gradient, chunk_tokens, kept_tokens, seed=1):
    """(encodings, encoder's gradients, number of recomputed chunks, the next random draw)."""
    training.encoder.zero_grad()
    torch.manual_seed(seed)
    with encoder_calls(training) as calls:
        chunks = ChunkedEncoding(training, items, chunk_tokens, GraphBudget(training.device, kept_tokens))
        once = len(calls)
        chunks.backward(gradient)
    grads = {name: p.grad.clone() for name, p in training.encoder.named_parameters() if p.grad is not None}
    return chunks.encodings, grads, len(calls) - once, torch.rand(1)


@contextmanager
def encoder_calls(training):
    """Yields (texts, whether a graph is kept) of every call of the encoder meanwhile."""
    calls = []
    told = training.encoder.register_forward_pre_hook(
        lambda _, given: calls.append((len(given[0]), torch.is_grad_enabled()))
    )
    try:
        yield calls
    finally:
        told.remove()


@pytest.fixture(params=m.FAMILIES)
def dropping(request):
    """(training with dropout on, items, dL/dh)."""
    training = m.make_training(m.make_encoder(request.param, "attention", dropout=DROPOUT))
    torch.manual_seed(3)
    return training, torch.arange(9), torch.randn(9, training.encoder.width, dtype=torch.float64)


def worst(found, expected):
    return max(relative_errors(found, expected).values())


@pytest.mark.parametrize("kept_tokens", [0, 1, 3 * m.TEXT_LENGTH, 5 * m.TEXT_LENGTH])
def test_recomputed_chunks_equal_kept_ones_with_dropout_on(dropping, kept_tokens):
    """Without the replay the second forward would draw other masks than those the loss was computed with."""
    training, items, gradient = dropping
    chunk = 2 * m.TEXT_LENGTH
    encodings, kept, none_recomputed, draw = encoder_gradients(training, items, gradient, chunk, None)
    again, recomputed, some, draw_again = encoder_gradients(training, items, gradient, chunk, kept_tokens)
    assert none_recomputed == 0
    assert some > 0
    assert torch.equal(encodings, again)
    assert total_norm(kept.values()) > 1e-2
    assert worst(recomputed, kept) <= 1e-12
    assert torch.equal(draw, draw_again), "the backward must leave the generators where the forward left them"


def test_a_recomputed_whole_batch_equals_plain_autograd_with_dropout_on(dropping):
    training, items, gradient = dropping
    torch.manual_seed(1)
    training.encoder.zero_grad()
    plain_encodings = training.encode(items)
    plain_encodings.backward(gradient)
    plain = {name: p.grad.clone() for name, p in training.encoder.named_parameters() if p.grad is not None}
    encodings, found, recomputed, _ = encoder_gradients(training, items, gradient, None, 0)
    assert recomputed == 1
    assert torch.equal(encodings, plain_encodings.detach())
    assert worst(found, plain) <= 1e-12


def test_without_the_replay_the_gradient_differs(dropping, monkeypatch):
    """Guard: dropout is on, and the comparison sees it."""
    training, items, gradient = dropping
    _, kept, _, _ = encoder_gradients(training, items, gradient, 2 * m.TEXT_LENGTH, None)
    monkeypatch.setattr(RandomState, "replayed", lambda self: nullcontext())
    _, found, _, _ = encoder_gradients(training, items, gradient, 2 * m.TEXT_LENGTH, 0)
    assert worst(found, kept) > 1e-2


@pytest.mark.parametrize("cf_module", m.CF_MODULES)
def test_single_step_with_dropout_is_the_same_whatever_it_keeps(cf_module):
    """Through the whole method, the CF module's own random draws included."""
    training = m.make_training(m.make_encoder(dropout=DROPOUT), cf_module)
    batch = m.make_batch(m.CF_MODULES[cf_module].task)
    plain = m.step_gradients("e2e_unique", training, batch)
    assert worst(m.step_gradients("single_step", training, batch, kept_tokens=0), plain) <= 1e-10
    small = m.step_gradients("single_step", training, batch, chunk_tokens=20)
    assert worst(m.step_gradients("single_step", training, batch, chunk_tokens=20, kept_tokens=0), small) <= 1e-10
    assert worst(m.step_gradients("e2e_unique", training, batch, seed=9), plain) > 1e-2


@settings(max_examples=20)
@given(
    budgets=st.tuples(strategies.BUDGETS, strategies.KEPT),
    padding=st.sampled_from(m.PADDINGS),
    items=st.lists(st.integers(0, m.ITEMS - 1), min_size=1, max_size=12),
)
def test_chunks_keep_what_fits_and_encode_the_same(budgets, padding, items):
    """Kept graphs stay within kept_tokens, no call exceeds chunk_tokens but for a single text."""
    chunk_tokens, kept_tokens = budgets
    training = m.make_training(m.make_encoder(padding=padding))
    items = torch.tensor(items)
    with encoder_calls(training) as calls:
        chunks = ChunkedEncoding(training, items, chunk_tokens, GraphBudget(training.device, kept_tokens))
    per_text = int(training.encoder.computed_tokens(training.table.lengths[items])[0])
    assert sum(count for count, _ in calls) == len(items)
    assert all(chunk_tokens is None or count * per_text <= chunk_tokens or count == 1 for count, _ in calls)
    kept = sum(count * per_text for count, graph in calls if graph)
    assert kept_tokens is None or kept <= kept_tokens
    assert not chunks.encodings.requires_grad
    expected = training.encoder(training.table.texts(items)).detach()
    assert float((chunks.encodings - expected).abs().max()) <= 1e-12


@pytest.mark.parametrize(("room", "kept"), [(0, 1), (15, 1), (40, 2), (90, 5), (10_000, 9)])
def test_a_memory_budget_keeps_as_many_graphs_as_it_has_room_for(room, kept):
    """Each chunk takes 2 bytes a token here; what the next one takes is foreseen, so that the budget is not overrun."""
    training = m.make_training()
    in_use = [1000]
    forward = training.encoder.forward

    def metered(texts):
        if torch.is_grad_enabled():
            in_use[0] += 2 * m.TEXT_LENGTH * len(texts)
        return forward(texts)

    training.encoder.forward = metered
    budget = GraphBudget(training.device, memory_budget=1000 + room + 0.5, allocated=lambda: in_use[0])
    with encoder_calls(training) as calls:
        chunks = ChunkedEncoding(training, torch.arange(9), m.TEXT_LENGTH, budget)
    bytes_per_chunk = 2 * m.TEXT_LENGTH
    assert sum(graph for _, graph in calls) == kept
    assert in_use[0] <= 1000 + max(room, bytes_per_chunk), "only the first chunk may overrun: nothing is known of it"
    gradient = torch.randn(9, training.encoder.width, dtype=torch.float64)
    training.encoder.zero_grad()
    chunks.backward(gradient)
    found = {name: p.grad.clone() for name, p in training.encoder.named_parameters() if p.grad is not None}
    _, expected, _, _ = encoder_gradients(training, torch.arange(9), gradient, None, None)
    assert worst(found, expected) <= 1e-10


def test_a_memory_budget_that_cannot_be_kept_is_refused():
    """On a CPU nothing tells what graphs take; a share of it means nothing."""
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="needs a CUDA device"):
        GraphBudget(cpu, memory_budget=1e9)
    with pytest.raises(ValueError, match="share"):
        GraphBudget(cpu, memory_budget=0.5, allocated=lambda: 0)
    with pytest.raises(ValueError, match="above 0"):
        GraphBudget(cpu, memory_budget=0.0, allocated=lambda: 0)
    with pytest.raises(ValueError, match="chunk_tokens"):
        m.METHODS["single_step"].Settings(memory_budget=1e9)


def test_no_random_state_is_saved_for_an_encoder_that_never_draws(monkeypatch):
    """Reading a GPU's generator waits for the GPU, once for every chunk."""
    texts, gradient = torch.arange(9), torch.ones(9, m.make_encoder().width, dtype=torch.float64)
    found = {}
    for name, wrap in (("draws", lambda encoder: encoder), ("never draws", PackedEncoder)):
        asked = []
        now = RandomState.now
        with monkeypatch.context() as patch:
            patch.setattr(RandomState, "now", lambda device, asked=asked, now=now: asked.append(1) or now(device))
            training = m.make_training()
            training = replace(training, encoder=wrap(training.encoder))
            _, found[name], recomputed, _ = encoder_gradients(training, texts, gradient, 2 * m.TEXT_LENGTH, 0)
        assert recomputed > 1
        assert len(asked) == (recomputed if name == "draws" else 0)
    plain = {name.removeprefix("encoder."): gradient for name, gradient in found["never draws"].items()}
    assert worst(plain, found["draws"]) <= 1e-10
