"""`encode` and `encoded` leave the gradient of a loop that encodes every slot, and encode each item once."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from gram_core import encode, encoded
from gram_core.exactness import gradients, parameters, relative_errors
from tests.gram_core import _own_loop as loop

LIMITS = [(None, None), (4, None), (4, 0), (4, 6), (1, 0), (None, 0), (100, 100)]
"""chunk and keep: whole, chunked, all recomputed, some, one by one, one chunk recomputed, beyond all."""


@pytest.mark.parametrize(("chunk", "keep"), LIMITS)
def test_gradients_are_the_naive_loops(chunk, keep):
    model, tower = loop.text_model(), loop.tower()
    tower(*encode(loop.Counting(model), *loop.batch(), chunk=chunk, keep=keep)).backward()
    assert loop.error(model, tower, loop.naive_gradients()) < 1e-10


def test_the_comparison_notices_another_batch():
    """Guard: gradients exist and differ when one item differs."""
    history, candidates = loop.batch()
    other = candidates.clone()
    other[0, 0] = (other[0, 0] + 1) % loop.ITEMS
    model, tower = loop.text_model(), loop.tower()
    tower(*encode(loop.Counting(model), history, other)).backward()
    assert loop.error(model, tower, loop.naive_gradients()) > 1e-3


@pytest.mark.parametrize(("chunk", "keep"), LIMITS)
def test_each_item_is_encoded_once_and_only_what_is_not_kept_again(chunk, keep):
    history, candidates = loop.batch()
    unique = sorted(set(history.flatten().tolist() + candidates.flatten().tolist()) - {-1})
    encoder, tower = loop.Counting(loop.text_model()), loop.tower()
    loss = tower(*encode(encoder, history, candidates, chunk=chunk, keep=keep))
    assert [i for call in encoder.calls for i in call] == unique
    assert max(len(call) for call in encoder.calls) <= (chunk or len(unique))
    first = len(encoder.calls)
    loss.backward()
    again = sum(len(call) for call in encoder.calls[first:])
    if keep is None or keep >= len(unique):
        assert again == 0
    else:
        assert len(unique) - keep <= again <= len(unique)


@pytest.mark.parametrize("keep", [None, 0, 6])
def test_chunks_draw_dropout_alike_in_both_passes(keep):
    """With dropout, slots of an item share a mask; recomputation replays it, and leaves the generator where it was."""

    def run(keep):
        model, tower = loop.text_model(dropout=0.3), loop.tower()
        torch.manual_seed(7)
        loss = tower(*encode(loop.Counting(model), *loop.batch(), chunk=4, keep=keep))
        drawn = torch.rand(1)
        loss.backward()
        return gradients({"encoder": model, "tower": tower}), drawn, torch.rand(1)

    (found, *drawn), (expected, *expected_drawn) = run(keep), run(None)
    assert max(relative_errors(found, expected).values()) < 1e-10
    assert drawn == expected_drawn


def test_with_dropout_the_gradient_is_that_of_each_item_encoded_once_by_hand():
    history, candidates = loop.batch()
    model, tower = loop.text_model(dropout=0.3), loop.tower()
    torch.manual_seed(7)
    tower(*encode(loop.Counting(model), history, candidates)).backward()
    by_hand, other = loop.text_model(dropout=0.3), loop.tower()
    torch.manual_seed(7)
    ids = torch.unique(torch.cat([history.flatten(), candidates.flatten()]))
    rows = dict(zip(ids[1:].tolist(), loop.every_id(by_hand, ids[1:]), strict=True)) | {-1: torch.zeros(loop.WIDTH)}
    slots = [torch.stack([torch.stack([rows[i] for i in row]) for row in part.tolist()]) for part in loop.batch()]
    other(*slots).backward()
    assert loop.error(model, tower, gradients({"encoder": by_hand, "tower": other})) < 1e-10


TABLE = torch.linspace(-1, 2, 12 * 3, dtype=torch.float64).view(12, 3)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
IDS = SHAPES.flatmap(lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(-1, 11)))
DTYPES = st.sampled_from([torch.int8, torch.int16, torch.int32, torch.int64])


@settings(max_examples=80)
@given(st.lists(IDS, min_size=1, max_size=3), DTYPES, st.sampled_from(LIMITS))
def test_any_shapes_of_ids(arrays, dtype, limits):
    """Values and gradients of a table, for ids of any shape and integer dtype, all -1 and empty ones included."""
    ids = [torch.from_numpy(np.asarray(array)).to(dtype) for array in arrays]
    table = TABLE.clone().requires_grad_()
    found = encode(lambda items: table[items].sin(), *ids, chunk=limits[0], keep=limits[1])
    found = (found,) if len(ids) == 1 else found
    other = TABLE.clone().requires_grad_()
    wanted = [(other[part.long().clamp(min=0)].sin() * (part >= 0)[..., None]) for part in ids]
    for one, two, part in zip(found, wanted, ids, strict=True):
        assert one.shape == (*part.shape, 3)
        torch.testing.assert_close(one, two)
    weigh = [torch.arange(float(one.numel()), dtype=torch.float64).view(one.shape) + 1 for one in found]
    sum((one * w).sum() for one, w in zip(found, weigh, strict=True)).backward()
    sum((two * w).sum() for two, w in zip(wanted, weigh, strict=True)).backward()
    torch.testing.assert_close(table.grad, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("chunk", "keep"), LIMITS)
def test_backward_twice(chunk, keep):
    """retain_graph keeps what recomputes, too; a second call without it is torch's own error."""
    model, tower = loop.text_model(), loop.tower()
    loss = tower(*encode(loop.Counting(model), *loop.batch(), chunk=chunk, keep=keep))
    loss.backward(retain_graph=True)
    loss.backward()
    twice = {name: 2 * value for name, value in loop.naive_gradients().items()}
    assert loop.error(model, tower, twice) < 1e-10
    with pytest.raises(RuntimeError, match=r"second time|already been freed|unpacked already"):
        loss.backward()


@pytest.mark.parametrize("keep", [None, 0])
def test_gradients_of_gradients(keep):
    """create_graph goes through: a penalty on the encodings' gradient."""
    table = TABLE.clone().requires_grad_()
    rows = encode(lambda items: table[items].sin(), torch.tensor([3, 3, -1, 5]), chunk=1, keep=keep)
    (gradient,) = torch.autograd.grad(rows.square().sum(), table, create_graph=True)
    gradient.square().sum().backward()
    other = TABLE.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(other[[3, 3, 5]].sin().square().sum(), other, create_graph=True)
    gradient.square().sum().backward()
    torch.testing.assert_close(table.grad, other.grad)


def test_under_no_grad_and_in_eval():
    model = loop.text_model(dropout=0.5).eval()
    history, _ = loop.batch()
    encoder = loop.Counting(model)
    with torch.no_grad():
        found = encode(encoder, history, chunk=4, keep=0)
    assert not found.requires_grad
    torch.testing.assert_close(found, loop.naive(model, history).detach())
    with torch.inference_mode():
        torch.testing.assert_close(encode(encoder, history, chunk=4, keep=0), found)
    encode(encoder, history, chunk=4, keep=0).square().sum().backward()  # gradients in eval, as for adversarial inputs
    assert model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("around", ["encode", "loss", "backward", "all"])
@pytest.mark.parametrize("keep", [0, 6])
def test_autocast_around_any_part(around, keep):
    """What recomputes does so in the precision of its first pass, whatever autocast does when backward comes."""

    def run(keep):
        model, tower = loop.text_model(dtype=torch.float32), loop.Tower()
        in_bfloat16 = lambda part: torch.autocast("cpu", torch.bfloat16, enabled=around in (part, "all"))  # noqa: E731
        with in_bfloat16("encode"):
            rows = encode(loop.Counting(model), *loop.batch(), chunk=4, keep=keep)
        with in_bfloat16("loss"):
            loss = tower(*rows)
        with in_bfloat16("backward"):
            loss.backward()
        return gradients({"encoder": model, "tower": tower})

    assert max(relative_errors(run(keep), run(None)).values()) < 1e-6


def test_a_scaler_scales_and_unscales():
    model, tower = loop.text_model(), loop.tower()
    optimizer = torch.optim.SGD([*model.parameters(), *tower.parameters()], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loss = tower(*encode(loop.Counting(model), *loop.batch(), chunk=4, keep=0))
    scaler.scale(loss).backward()
    assert loop.error(model, tower, loop.naive_gradients()) > 1000
    scaler.unscale_(optimizer)
    assert loop.error(model, tower, loop.naive_gradients()) < 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_encodings_keep_the_encoders_dtype(dtype):
    table = TABLE.to(dtype).requires_grad_()
    rows = encode(lambda items: table[items] * 2, torch.tensor([1, -1, 1]), chunk=1, keep=0)
    assert rows.dtype == dtype
    rows.float().sum().backward()
    assert table.grad.dtype == dtype
    assert table.grad[1].tolist() == [4, 4, 4]


def test_a_row_that_overflowed_does_not_reach_empty_slots():
    rows = encode(lambda items: torch.full((len(items), 2), torch.inf), torch.tensor([0, -1]))
    assert rows.tolist() == [[torch.inf, torch.inf], [0, 0]]


@pytest.mark.parametrize("change", ["step", "eval"])
def test_an_encoder_that_changed_before_backward_is_an_error(change):
    model = loop.text_model()

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return loop.every_id(self.model, ids)

    loss = encode(encoder := Encoder(), loop.batch()[0], chunk=4, keep=0).square().sum()
    if change == "step":
        with torch.no_grad():
            next(model.parameters()).add_(1)
    else:
        encoder.eval()
    with pytest.raises(RuntimeError, match="changed between encode and the backward pass"):
        loss.backward()


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([torch.tensor([0.5])], TypeError, "integers, not torch.float32"),
        ([[1, 2]], TypeError, "integers, not list"),
        ([torch.tensor([True])], TypeError, "integers, not torch.bool"),
        ([torch.tensor([3, -100])], ValueError, "an item id is -100"),
        ([], TypeError, "one tensor of item ids at least"),
    ],
)
def test_ids_that_are_none_are_named(ids, error, message):
    with pytest.raises(error, match=message):
        encode(lambda items: items, *ids)


@pytest.mark.parametrize("wrong", [lambda ids: ids.float(), lambda ids: torch.zeros(1, 3), lambda ids: "text"])
def test_an_encoder_that_returns_something_else_is_named(wrong):
    with pytest.raises(ValueError, match=r"must return a tensor \[n, d\] for n = 2 item ids, not"):
        encode(wrong, torch.tensor([1, 2]))


@pytest.mark.parametrize("limits", [{"chunk": 0}, {"keep": -1}])
def test_limits_that_are_none_are_named(limits):
    with pytest.raises(ValueError, match="must be at least"):
        encode(lambda ids: ids[:, None], torch.tensor([1]), **limits)


def test_an_encoder_that_cannot_encode_nothing_is_told_why():
    with pytest.raises(RuntimeError) as caught:
        encode(lambda ids: torch.stack([TABLE[i] for i in ids]), torch.tensor([-1, -1]))
    assert "every id is -1" in caught.value.__notes__[0]


@pytest.mark.parametrize(("chunk", "keep"), LIMITS)
def test_encoded_lets_a_loss_backpropagate_in_its_own_way(chunk, keep):
    """User by user, each with its own backward: the encoder is passed once."""
    model, tower = loop.text_model(), loop.tower()
    encoder = loop.Counting(model)
    per_user = lambda h, c: tower(h[None], c[None])  # noqa: E731
    with encoded(encoder, *loop.batch(), chunk=chunk, keep=keep) as (history, candidates):
        assert history.is_leaf
        for user in range(len(history)):
            per_user(history[user], candidates[user]).backward()
    other, other_tower = loop.text_model(), loop.tower()
    slots = [loop.naive(other, part) for part in loop.batch()]
    sum(other_tower(h[None], c[None]) for h, c in zip(*slots, strict=True)).backward()
    assert loop.error(model, tower, gradients({"encoder": other, "tower": other_tower})) < 1e-10


def test_encoded_gives_one_tensor_for_one():
    table = TABLE.clone().requires_grad_()
    with encoded(lambda ids: table[ids], torch.tensor([[2, 2]])) as rows:
        assert rows.shape == (1, 2, 3)
        rows.sum().backward()
    assert table.grad[2].tolist() == [2, 2, 2]


def test_encoded_without_backward_or_gradients_is_an_error():
    table = TABLE.clone().requires_grad_()

    def forgets():
        with encoded(table.__getitem__, torch.arange(2)):
            pass

    with pytest.raises(RuntimeError, match="call backward on the loss there"):
        forgets()
    with torch.no_grad(), pytest.raises(RuntimeError, match="gradients are disabled"):
        forgets()


def test_encoded_passes_errors_and_backpropagates_nothing_then():
    table = TABLE.clone().requires_grad_()

    def fails():
        with encoded(table.__getitem__, torch.arange(2)) as rows:
            rows.sum().backward()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert table.grad is None


def test_a_frozen_encoder_trains_the_rest():
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with encoded(lambda ids: TABLE[ids], torch.arange(2), chunk=1, keep=0) as rows:
        (rows @ weight).sum().backward()
    (encode(lambda ids: TABLE[ids], torch.arange(2), chunk=1, keep=0) @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, 2 * TABLE[:2].sum(0))


def test_several_steps_of_an_optimizer_agree():
    """After 20 AdamW steps with clipping the parameters are the naive loop's."""
    modules = [(loop.text_model(), loop.tower()) for _ in range(2)]
    for (model, tower), once in zip(modules, (False, True), strict=True):
        optimizer = torch.optim.AdamW([*model.parameters(), *tower.parameters()], lr=1e-3)
        for seed in range(20):
            ids = loop.batch(seed)
            encoder = loop.Counting(model)
            naive = [loop.naive(model, part) for part in ids]
            tower(*(encode(encoder, *ids, chunk=4, keep=6) if once else naive)).backward()
            nn.utils.clip_grad_norm_([*model.parameters(), *tower.parameters()], 0.5)
            optimizer.step()
            optimizer.zero_grad()
    start = parameters({"": loop.text_model()})
    found, expected = (parameters({"": model}) for model, _ in modules)
    assert max(relative_errors(found, expected).values()) < 1e-8
    assert any(not torch.equal(p, start[name]) for name, p in found.items())


@pytest.mark.parametrize("keep", [None, 0])
@pytest.mark.parametrize("reentrant", [False, True])
def test_an_encoder_that_checkpoints_its_layers(reentrant, keep):
    """Recomputation within recomputation."""
    model, tower = loop.text_model(), loop.tower()
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": reentrant})
    tower(*encode(loop.Counting(model), *loop.batch(), chunk=4, keep=keep)).backward()
    assert loop.error(model, tower, loop.naive_gradients()) < 1e-10


@pytest.mark.filterwarnings("error:Using `torch.compile")
def test_a_compiled_encoder():
    """Traced, not generated: recomputation goes through the compiled pass, dropout replayed."""
    torch.manual_seed(4)
    module = nn.Sequential(nn.Embedding(loop.ITEMS, 8), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.2)).double()

    def run(encoder, keep):
        module.zero_grad()
        torch.manual_seed(3)
        sum(rows.square().sum() for rows in encode(encoder, *loop.batch(), chunk=4, keep=keep)).backward()
        return gradients({"encoder": module})

    compiled = torch.compile(module, backend="aot_eager")
    for keep in (None, 0):
        assert max(relative_errors(run(compiled, keep), run(module, keep)).values()) < 1e-10
