"""`accelerated` in anyone's loop: gradients are the naive loop's, or a clear error.

On a processor passes are not captured; graphs are played there by functions that run again into the same outputs.
"""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gram_core import Accelerated, ItemTable, MultiStepEncodings, accelerated, encode, encoded
from gram_core.encoders import _aside
from gram_core.engines import _captured, _captured_passes
from gram_core.engines._captured_passes import CapturedPasses
from gram_core.exactness import Float64Throughout, gradients, relative_errors
from tests.gram_core.test_general_encoder import FAMILIES, encoder_of, texts_of

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE, BOUND = (torch.float32, 2e-3) if GPU else (torch.float64, 1e-10)
LENGTHS = (5, 9, 3, 17, 30, 2, 8, 8, 11)
IDS = torch.tensor([[0, 3, 3, 1, -1], [4, 0, 2, 2, 1]])
MORE = torch.tensor([[5, 6], [7, 3]])


FAMILIES.setdefault("bert", {"num_hidden_layers": 2, "max_position_embeddings": 40, "num_attention_heads": 1})


class PlayedPool:
    """Graphs on a processor: replaying runs the function again, into the outputs of the first time."""

    crowded = False
    """Whether graphs make room for what none of them serves."""

    def __init__(self, device: torch.device):
        self.idle = SimpleNamespace(busy=_captured_passes.torch.no_grad)
        self.holders: set[Any] = set()

    def make_room(self) -> None:
        for holder in self.holders if self.crowded else ():
            holder.drop_graphs()

    def run(self, function: Any) -> Any:
        return function()

    def capture(self, function: Any) -> Any:
        outputs = function()

        def replay() -> None:
            for old, new in zip(outputs, function(), strict=True):
                old.copy_(new)

        return SimpleNamespace(replay=replay), outputs


@pytest.fixture(autouse=True)
def _throughout(request: pytest.FixtureRequest) -> Iterator[None]:
    with nullcontext() if GPU or "autocast" in request.node.name else Float64Throughout():
        yield


def items_of() -> ItemTable:
    texts = texts_of(*LENGTHS)
    return ItemTable.from_lists(part.tolist() for part in texts.tokens.split(texts.lengths.tolist()))


def accelerated_of(family: str, captured: bool, adapters: bool = False, dtype: torch.dtype = DTYPE) -> Any:
    made = accelerated(encoder_of(family, dtype, adapters).to(DEVICE), items_of(), replayed=captured)
    if captured and DEVICE.type == "cpu":
        passes, ran = made._passes()
        key = next(iter(made._made.passes))
        made._made.passes[key] = (CapturedPasses(passes, DEVICE, PlayedPool), ran)  # type: ignore[arg-type]
    return made


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(16, 1).double().to(DEVICE)

    def forward(self, *rows: Tensor) -> Tensor:
        return torch.cat([self.layer(row.double()).flatten() for row in rows]).tanh().square().sum()


def naive(encoder: nn.Module, *ids: Tensor) -> dict[str, Tensor]:
    """Gradients of the loop that encodes every slot."""
    encoder.zero_grad()
    tower, table = Tower(), items_of()
    rows = [encoder(table.texts(part.clamp(min=0).flatten())).unflatten(0, part.shape) for part in ids]
    tower(*(row * (part >= 0).to(DEVICE)[..., None] for row, part in zip(rows, ids, strict=True))).backward()
    found = gradients({"encoder": encoder, "tower": tower})
    encoder.zero_grad()
    return found


def found_by(made: Accelerated, *ids: Tensor, **options: Any) -> dict[str, Tensor]:
    made.zero_grad()
    tower = Tower()
    rows = encode(made, *ids, **options)
    tower(*(rows if isinstance(rows, tuple) else (rows,))).backward()
    found = gradients({"encoder": made.encoder, "tower": tower})
    made.zero_grad()
    return found


@pytest.mark.parametrize(
    ("family", "adapters", "captured"),
    [("modernbert", False, False), ("modernbert", True, True), ("qwen3", True, False), ("qwen3", False, True),
     ("bert", False, False), ("bert", False, True)],
)  # fmt: skip
def test_gradients_are_the_naive_loops(family, adapters, captured):
    """In the first step, which is not replayed, in the second, which is captured, and with other items after it."""
    made = accelerated_of(family, captured, adapters)
    for ids in ((IDS, MORE), (IDS, MORE), (MORE,), (IDS.flip(0), MORE), (MORE,)):
        errors = relative_errors(found_by(made, *ids), naive(made.encoder, *ids))
        assert max(errors.values()) < BOUND
    assert made.tier == ("packed" if family == "bert" else "general")


@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_graphs_that_made_room_for_a_new_size_are_captured_again(family, monkeypatch):
    monkeypatch.setattr(_captured, "MUCH", 0.0)
    monkeypatch.setattr(PlayedPool, "crowded", True)
    made = accelerated_of(family, captured=True)
    sizes = (IDS, MORE), (IDS, MORE), (MORE,), (IDS, MORE), (MORE,), (IDS.flip(0), MORE), (IDS,), (MORE,), (IDS, MORE)
    for ids in sizes:
        assert max(relative_errors(found_by(made, *ids), naive(made.encoder, *ids)).values()) < BOUND


def test_passes_too_large_for_work_beside_them_are_replayed_as_well(monkeypatch):
    monkeypatch.setattr(_aside, "MOST_TOKENS", 0)
    made = accelerated_of("bert", captured=True)
    for ids in (IDS, IDS, IDS.flip(0)):
        assert max(relative_errors(found_by(made, ids), naive(made.encoder, ids)).values()) < BOUND


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("options", [{"chunk": 2}, {"chunk": 3, "keep": 0}, {"chunk": 2, "keep": 3}])
def test_chunks_and_what_is_encoded_again(captured, options):
    made = accelerated_of("bert", captured)
    for _ in range(3):
        errors = relative_errors(found_by(made, IDS, MORE, **options), naive(made.encoder, IDS, MORE))
        assert max(errors.values()) < BOUND


def test_recomputed_passes_hold_no_graphs_memory_until_the_backward_pass():
    made = accelerated_of("qwen3", captured=True)
    for _ in range(3):
        rows = encode(made, IDS, chunk=1, keep=0)
        passes, _ = made._passes()
        assert not any(level.busy for level in passes._levels)
        rows.sum().backward()
    assert len(passes._levels) == 1


def test_two_calls_before_one_backward_pass():
    """Each has activations of its own, in whatever order they are back-propagated, and lets go of them."""
    made = accelerated_of("modernbert", captured=True)
    one, other = naive(made.encoder, IDS), naive(made.encoder, MORE)
    expected = {name: gradient + other[name] for name, gradient in one.items()}
    for order in (1, -1, 1):
        made.zero_grad()
        tower = Tower()
        losses = [tower(encode(made, ids)) for ids in (IDS, MORE)][::order]
        for loss in losses:
            loss.backward()
        assert max(relative_errors(gradients({"encoder": made.encoder, "tower": tower}), expected).values()) < BOUND
    passes, _ = made._passes()
    assert len(passes._levels) == 2
    assert not any(level.busy for level in passes._levels)


def test_a_loss_that_is_dropped_gives_its_activations_memory_back():
    made = accelerated_of("qwen3", captured=True)
    for _ in range(5):
        rows = encode(made, IDS)
        del rows
        gc.collect()
    passes, _ = made._passes()
    assert len(passes._levels) == 1
    assert not passes._levels[0].busy


def test_gradients_accumulate_and_hooks_are_called_once():
    made = accelerated_of("qwen3", captured=True)
    parameter, calls = made.encoder.model.layers[0].mlp.up_proj.weight, []
    parameter.register_post_accumulate_grad_hook(lambda p: calls.append(p.grad.clone()))
    for _ in range(3):
        encode(made, IDS).sum().backward()
    assert len(calls) == 3
    assert torch.allclose(calls[2], 3 * calls[0], rtol=BOUND)


def test_moved_weights_are_followed_and_moves_in_between_refused():
    made = accelerated_of("qwen3", captured=True)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(4):
        errors = relative_errors(found_by(made, IDS), naive(made.encoder, IDS))
        assert max(errors.values()) < BOUND
        encode(made, IDS).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    loss = encode(made, IDS).square().sum()
    with torch.no_grad():
        next(made.parameters()).add_(0.1)
    with pytest.raises(RuntimeError, match="weights changed between encode and the backward pass"):
        loss.backward()


def test_frozen_layers_and_replaced_parameters_are_followed():
    made = accelerated_of("qwen3", captured=True)
    model = made.encoder.model
    changes = (
        lambda: model.layers[0].requires_grad_(False),
        lambda: setattr(model.norm, "weight", nn.Parameter(model.norm.weight.detach() * 2)),
    )
    for change in changes:
        change()
        for _ in range(3):
            found, expected = found_by(made, IDS), naive(made.encoder, IDS)
            assert found.keys() == expected.keys()
            assert max(relative_errors(found, expected).values()) < BOUND


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("options", [{}, {"chunk": 5, "keep": 0}])
@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_what_learns_beside_the_pass_alone_gets_no_gradient(family, options, captured):
    """As a pooler that nobody reads, above a frozen model."""
    made = accelerated_of(family, captured)
    made.encoder.model.requires_grad_(False)
    made.encoder.model.register_parameter("unread", nn.Parameter(torch.ones(2, dtype=DTYPE, device=DEVICE)))
    for _ in range(3):
        errors = relative_errors(found_by(made, IDS, **options), naive(made.encoder, IDS))
        assert errors.keys() == {"tower.layer.weight", "tower.layer.bias"}
        assert max(errors.values()) < BOUND


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("options", [{}, {"chunk": 5, "keep": 0}])
def test_backward_twice_is_an_error_and_encoded_takes_many(options, captured):
    made = accelerated_of("modernbert", captured)
    for _ in range(2):
        loss = encode(made, IDS, **options).sum()
        loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()
    made.zero_grad()
    with encoded(made, IDS) as rows:
        rows.square().sum().backward(retain_graph=True)
        rows.sum().backward()
    one = gradients({"encoder": made.encoder})
    made.zero_grad()
    rows = encode(made, IDS)
    (rows.square().sum() + rows.sum()).backward()
    assert max(relative_errors(one, gradients({"encoder": made.encoder})).values()) < BOUND


def test_evaluation_keeps_nothing():
    made = accelerated_of("qwen3", captured=True)
    expected = made.encoder(items_of().texts(torch.arange(4)))
    for _ in range(3):
        with torch.no_grad():
            rows = encode(made, torch.arange(4))
        assert not rows.requires_grad
        assert torch.allclose(rows, expected, rtol=BOUND, atol=BOUND)
    assert encode(made, torch.tensor([-1, -1])).tolist() == [[0.0] * 16] * 2


@pytest.mark.parametrize("family", ["bert", "qwen3"])
@pytest.mark.parametrize("options", [{}, {"chunk": 2, "keep": 0}])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: next(m.parameters()).detach().mul_(2), "weights"),
        (lambda m: m.eval(), "training mode"),
        (lambda m: next(m.parameters()).requires_grad_(False), "frozen parameters"),
    ],
)
def test_what_changes_before_the_backward_pass_is_said(family, options, change, what):
    made = accelerated_of(family, captured=False)
    loss = encode(made, IDS, **options).square().sum()
    change(made.encoder.model)
    with pytest.raises(RuntimeError, match=f"{what} changed between encode and the backward pass"):
        loss.backward()


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_second_derivatives_are_refused(family):
    made = accelerated_of(family, captured=False)
    rows = encode(made, IDS)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(rows.square().sum(), next(made.parameters()), create_graph=True)


def test_padding_of_a_tokenizer_is_left_out_and_odd_ids_are_said():
    texts = items_of().texts(torch.arange(4))
    ids, mask = texts.padded(40, 0)
    encoder = encoder_of("qwen3", DTYPE).to(DEVICE)
    padded = accelerated(encoder, {"input_ids": ids, "attention_mask": mask.long()})
    with torch.no_grad():
        expected = accelerated(encoder, items_of())(torch.arange(4))
        torch.testing.assert_close(padded(torch.arange(4)), expected)
    for odd in (torch.tensor([-1]), torch.tensor([4]), torch.tensor([[0]]), torch.tensor([0.5])):
        with pytest.raises(ValueError, match="ids must be"):
            padded(odd)
    with pytest.raises(ValueError, match="token ids must be from 0"):
        accelerated(encoder.model, [[1, 10_000]])


def test_another_dtype_is_another_pass():
    made = accelerated_of("qwen3", captured=False, dtype=torch.float32)
    encode(made, IDS).sum().backward()
    wider = torch.bfloat16 if GPU else torch.float64
    made.to(wider)
    found, expected = found_by(made, IDS), naive(made.encoder, IDS)
    assert next(made.parameters()).dtype == wider
    assert max(relative_errors(found, expected).values()) < (0.2 if GPU else BOUND)


def test_copies_have_passes_of_their_own():
    """Averaged weights, and an encoder that was pickled."""
    made = accelerated_of("qwen3", captured=True)
    encode(made, IDS).sum().backward()
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.5)
        errors = relative_errors(found_by(other, IDS), naive(other.encoder, IDS))
        assert max(errors.values()) < BOUND
    assert max(relative_errors(found_by(made, IDS), naive(made.encoder, IDS)).values()) < BOUND


def test_multi_step_on_accelerated_passes():
    """N = 1 with one pass leaves the gradient of `encode`."""
    made = accelerated_of("qwen3", captured=True)
    expected = found_by(made, IDS)
    found: dict[str, Tensor] = {}

    def update(loss: Tensor) -> None:
        loss.backward()
        found.update(gradients({"encoder": made.encoder}))

    for _ in range(2):
        made.zero_grad()
        targets, tower = MultiStepEncodings(made, update, accumulation_steps=1), Tower()
        tower(targets.encode(IDS)).backward()
        targets.step()
    encoder_only = {name: value for name, value in expected.items() if name.startswith("encoder")}
    assert max(relative_errors(found, encoder_only).values()) < 100 * BOUND


def test_what_cannot_be_accelerated_is_said():
    dropping = encoder_of("qwen3")
    dropping.model.layers[0].mlp.add_module("drop", nn.Dropout(0.1))
    with pytest.raises(ValueError, match=r"can't be accelerated: .*dropout acts"):
        accelerated(dropping, items_of())
    with pytest.raises(TypeError, match="a model of transformers"):
        accelerated(nn.Linear(2, 2), items_of())  # type: ignore[arg-type]
    made = accelerated_of("qwen3", captured=False, dtype=torch.float32)
    with pytest.raises(ValueError, match="float16"), torch.autocast(DEVICE.type, torch.float16):
        encode(made, IDS)


@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_autocast_at_the_call_is_computed_in(family):
    """As far from float32 as the naive loop under the same autocast is, within a factor for residual sums in bf16."""
    made = accelerated_of(family, captured=True, dtype=torch.float32)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 2:  # small ones leave all to residual sums, which are float32 under autocast
                parameter.mul_(10)
    exact = naive(made.encoder, IDS)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        own = distance(naive(made.encoder, IDS), exact)
        mine = [distance(found_by(made, IDS), exact) for _ in range(3)]
    assert 1e-5 < max(mine) <= 3 * own


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of all gradients together, relative."""
    off = sum(float((found[name] - value).double().square().sum()) for name, value in exact.items())
    return (off / sum(float(value.double().square().sum()) for value in exact.values())) ** 0.5
