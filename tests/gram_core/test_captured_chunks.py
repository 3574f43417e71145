"""Single-step GRAM in captured chunks trains as the eager method does at once, whatever is kept or recomputed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gram_core.batch import Batch, ItemTable
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.packed import PackedEncoder
from gram_core.encoders.standing import StandingWeights, SummedStandingWeights
from gram_core.engines import fast
from gram_core.engines._captured import CapturedFunction, GraphPool, Outputs, signature_of
from gram_core.engines._captured_chunks import CapturedChunkedStep
from gram_core.exactness import parameters, relative_errors
from gram_core.methods.e2e import E2E
from gram_core.methods.single_step import SingleStep
from gram_core.training import Optimization, Training
from tests.gram_core._models import TEXT_LENGTH, make_encoder, make_table, make_training, with_adamw
from tests.gram_core.test_fast_engine import batch, edge_batches
from tests.gram_core.test_fast_engine_gradients import (
    GPU,
    _float32_products,  # noqa: F401 - a fixture of every test here as well
    assert_alike,
    batches,
    eager_gradients,
    told_gradients,
    training,
)

SIZES = {
    "some": dict(chunk_tokens=30),
    "a text exceeds it": dict(chunk_tokens=TEXT_LENGTH - 3),
    "one holds all": dict(chunk_tokens=10_000),
}
KEPT = {"all": None, "none": 0, "the first": 45}


def awkward_batches() -> list[Batch]:
    """One item, all items, few again: buffers are larger than what they hold, and are met again after others."""
    edge = edge_batches()
    full = [batch(seed=seed) for seed in range(3)]
    return [full[0], edge["one_unique_item"], edge["all_unique"], full[1], edge["one_user"], full[2], full[0]]


def prepared(
    max_grad_norm: float | None = None,
    dtype: torch.dtype = torch.float64,
    layers: int | None = None,
    with_head: bool = False,
) -> Training:
    """With a parameter that no loss reads: AdamW must leave it where it is, and not let it decay."""
    encoder = make_encoder(with_head=with_head)
    if layers is not None:
        config = encoder.model.config
        config.num_hidden_layers = layers
        torch.manual_seed(3)
        encoder = HuggingFaceEncoder(type(encoder.model)(config), pad_token_id=0, text_length=TEXT_LENGTH).train()
    run = make_training(encoder)
    run.encoder.to(dtype)
    run.cf_module.to(dtype)
    run.cf_module.unread = nn.Parameter(torch.ones(3, dtype=dtype))
    return with_adamw(run, max_grad_norm=max_grad_norm)


def chunked(run: Training, amp: torch.dtype | None = None, **settings: int | None) -> CapturedChunkedStep:
    method = fast.build_packed(SingleStep, run, SingleStep.Settings(**settings), PackedEncoder(run.encoder, amp))
    assert isinstance(method, CapturedChunkedStep)
    return method


def trained(run: Training, step: Callable[[Batch], torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[float]]:
    losses = [float(step(one)) for one in awkward_batches()]
    return parameters({"encoder": run.encoder, "cf": run.cf_module}), losses


@cache
def trained_eagerly(max_grad_norm: float | None = None, with_head: bool = False) -> Any:
    """What every way of chunking is to leave, and the losses."""
    reference = prepared(max_grad_norm, with_head=with_head)
    return trained(reference, SingleStep(reference).step)


@pytest.fixture
def overwriting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call spoils what the one before returned, as graphs of a pool do, and copies no weights, as in a replay."""
    last: list[torch.Tensor] = []
    running = False
    refresh = StandingWeights.refresh

    def run(self: GraphPool, function: Callable[[], Outputs]) -> Outputs:
        nonlocal running
        for output in last:
            output.fill_(torch.nan)
        running = True
        last[:] = outputs = function()
        running = False
        return outputs

    monkeypatch.setattr(GraphPool, "run", run)
    monkeypatch.setattr(StandingWeights, "refresh", lambda self: None if running else refresh(self))


def spoil(method: CapturedChunkedStep) -> None:
    """Fills everything that stays from step to step, and isn't the models' or the optimizers', with nonsense."""
    assert len(method.functions) == 4
    for instance in itertools.chain.from_iterable(part._instances.values() for part in method.functions):
        static = instance.static
        for held in (static.block, *(block.memory for block in static.staging.blocks), *static.inputs.values()):
            held.fill_(torch.nan if held.is_floating_point() else 2**20)
    sums = list(method._gradients._sums)
    if method._summed is not None:
        sums += [*method._summed.sums.written(), *method._summed.gradients.written()]
    for held in sums:
        held.fill_(torch.nan)


@pytest.mark.usefixtures("overwriting")
@pytest.mark.parametrize("kept", KEPT)
def test_a_head_behind_the_pooling_is_trained_in_chunks(kept: str) -> None:
    """Its parameters are none of the weights whose gradients the packed pass leaves to the chunks to sum."""
    run = prepared(with_head=True)
    expected, losses = trained_eagerly(with_head=True)
    found, chunked_losses = trained(run, chunked(run, chunk_tokens=30, kept_tokens=KEPT[kept]).step)
    assert max(relative_errors(found, expected).values()) <= 1e-9
    assert chunked_losses == pytest.approx(losses, rel=1e-10)
    start = prepared(with_head=True).encoder.head[0].linear.weight
    assert not torch.equal(run.encoder.head[0].linear.weight, start)


def test_weights_do_not_stand_where_a_head_is_trained() -> None:
    """The fused move of standing weights would leave the head where it is."""
    whole, headed = (prepared(dtype=torch.float32, with_head=with_head) for with_head in (False, True))
    assert chunked(whole, torch.bfloat16, chunk_tokens=30)._summed is not None
    assert chunked(headed, torch.bfloat16, chunk_tokens=30)._summed is None


@pytest.mark.usefixtures("overwriting")
@pytest.mark.parametrize(
    ("kept", "max_grad_norm"), [*((kept, None) for kept in KEPT), ("the first", 0.5)], ids=[*KEPT, "the first, clipped"]
)
@pytest.mark.parametrize("size", SIZES)
def test_chunks_train_as_the_whole_batch_does_eagerly(size: str, kept: str, max_grad_norm: float | None) -> None:
    """A gradient of a chunk lost, doubled or left over from the step before would leave other parameters behind."""
    run = prepared(max_grad_norm)
    method = chunked(run, kept_tokens=KEPT[kept], **SIZES[size])

    def step(one: Batch) -> torch.Tensor:
        loss = method.step(one)
        everything = [*run.encoder.parameters(), *run.cf_module.parameters()]
        assert all(parameter.grad is None for parameter in everything), "a replay would not take it away"
        spoil(method)
        return loss

    expected, losses = trained_eagerly(max_grad_norm)
    found, chunked_losses = trained(run, step)
    assert max(relative_errors(found, expected).values()) <= 1e-9  # AdamW makes steps of what keys' biases round to
    assert chunked_losses == pytest.approx(losses, rel=1e-10)
    untouched = prepared()
    start = parameters({"encoder": untouched.encoder, "cf": untouched.cf_module})
    assert max(relative_errors(start, expected).values()) > 1e-4, "nothing moved, so nothing was shown"
    again = method._again.counts.uncaptured
    assert (again == 0) is (kept == "all")
    if kept == "none" and size != "one holds all":
        assert again > len(awkward_batches()), "no step summed the gradients of several chunks"


@pytest.mark.usefixtures("overwriting")
@pytest.mark.parametrize(("kept", "layers"), [*((kept, None) for kept in KEPT), ("the first", 5)])
def test_standing_weights_train_as_weights_that_are_cast(
    kept: str, layers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for stands in (True, False):
        run = prepared(dtype=torch.float32, layers=layers)
        with monkeypatch.context() as patch:
            if not stands:
                patch.setattr("gram_core.engines._capturable.can_stand", lambda *_: False)
            method = chunked(run, torch.bfloat16, chunk_tokens=30, kept_tokens=KEPT[kept])
        standing = method._encoder.standing
        assert isinstance(standing, SummedStandingWeights) is stands
        if standing is not None:
            places = {matrix.data_ptr() for matrix in standing.gradients.matrices if matrix is not None}
            assert len(places) == 8, "two layers' worth"

        def step(one: Batch, method: CapturedChunkedStep = method) -> torch.Tensor:
            loss = method.step(one)
            spoil(method)
            with torch.no_grad():  # somebody loads other weights: they must be seen
                for parameter in method.training.encoder.parameters():
                    parameter.mul_(1.01)
            return loss

        found[stands], _ = trained(run, step)
    assert max(relative_errors(found[True], found[False]).values()) <= 1e-4
    untouched = prepared(dtype=torch.float32, layers=layers)
    start = parameters({"encoder": untouched.encoder, "cf": untouched.cf_module})
    assert max(relative_errors(start, found[False]).values()) >= 1e-2, "nothing moved, so nothing was shown"


@pytest.mark.parametrize(
    ("device", "text_length"), [("cpu", 12), *(pytest.param("cuda", length, marks=GPU.marks) for length in (12, 150))]
)
@pytest.mark.parametrize("amp", [None, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("kept_texts", [None, 0, 3])
def test_gradients_of_every_step(
    device: str, text_length: int, amp: torch.dtype | None, kept_texts: int | None
) -> None:
    """Six steps, run, captured and replayed, of batches that shrink and grow, each against the eager method."""
    reference, run, plain = (training(device, text_length, dtype) for dtype in (None, amp, amp))
    for group in run.optimization.encoder_optimizer.param_groups:
        group["betas"] = (0.0, 0.999)
    kept_tokens = None if kept_texts is None else kept_texts * text_length
    method = chunked(run, amp, chunk_tokens=2 * text_length, kept_tokens=kept_tokens)
    assert (method._encoder.standing is not None) is (amp is not None)
    for one in batches():
        method.step(one)
        autocast = None if amp is None else eager_gradients(plain, one)
        assert_alike(told_gradients(method, method._encoder), eager_gradients(reference, one), autocast)
    assert (method.capture_counts()["replayed"] > 0) is (device == "cuda")


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_steps_move_as_those_of_the_eager_method(device: str, max_grad_norm: float | None) -> None:
    """What the move's graph reads is what the others summed, clipped over encoder and CF module together."""
    found = {}
    for name in ("eager", "chunks"):
        run = training(device, 12, None)
        run.optimization.max_grad_norm = max_grad_norm
        for optimizer in (run.optimization.encoder_optimizer, run.optimization.cf_optimizer):
            optimizer.param_groups[0] |= {"lr": 1e-2, "eps": 1e-3}  # gradients that cancel are no steps then
        method = chunked(run, chunk_tokens=24, kept_tokens=24) if name == "chunks" else SingleStep(run)
        for one in batches():
            method.step(one)
        found[name] = parameters({"encoder": run.encoder, "cf": run.cf_module})
    errors = relative_errors(found["chunks"], found["eager"])
    assert max(error for name, error in errors.items() if not name.endswith(("key.bias", "keys.bias"))) <= 1e-3
    start = training(device, 12, None)
    untouched = parameters({"encoder": start.encoder, "cf": start.cf_module})
    assert max(relative_errors(untouched, found["eager"]).values()) >= 1e-2, "nothing moved, so nothing was shown"


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "without an optimizer"])
def test_an_encoder_that_does_not_learn_is_left_alone(frozen: bool) -> None:
    found = {}
    for name in ("eager", "chunks"):
        run = prepared()
        run.encoder.requires_grad_(not frozen)
        run.optimization.encoder_optimizer = None
        method = chunked(run, chunk_tokens=30, kept_tokens=45) if name == "chunks" else E2E(run)
        found[name], _ = trained(run, method.step)
    assert all(parameter.grad is None for parameter in run.encoder.parameters())
    assert max(relative_errors(found["chunks"], found["eager"]).values()) <= 1e-10


def test_chunks_of_batches_that_scatter_share_few_sizes() -> None:
    """Each size is a graph, and each capture takes time and memory."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, TEXT_LENGTH + 1, (3000,), generator=generator).tolist()
    table = ItemTable.from_lists([[3] * length for length in lengths])
    method = chunked(make_training(make_encoder(), table=table), chunk_tokens=1024, kept_tokens=2100)
    whole, parts = set(), set()
    for seed in range(30):
        inputs = method.host_inputs(batch(users=60, slots=16, items=3000, seed=seed))
        assert len(inputs.kept) == 2
        assert inputs.recomputed
        chunks = [signature_of(chunk) for chunk in (*inputs.kept, *inputs.recomputed)]
        parts.update(chunks)
        whole.add(tuple(chunks))
    assert len(parts) <= 3
    assert len(whole) <= 5


def test_the_table_holds_a_text_longer_than_the_smallest_chunk() -> None:
    assert int(make_table().lengths.max()) > SIZES["a text exceeds it"]["chunk_tokens"]


class Recording(TorchDispatchMode):
    """A stand-in for a CUDA graph: operations on fixed tensors, done again without the Python that gave them."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self.made: list[torch.Tensor] = []
        """What the graph's pool would hold."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        self._operations.append((func, args, kwargs or {}, _tensors(out)))
        self.made += [tensor for tensor in _tensors(out) if tensor.untyped_storage().data_ptr() not in given]
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, outputs in self._operations:
            for output, now in zip(outputs, _tensors(func(*args, **kwargs)), strict=True):
                if now.data_ptr() != output.data_ptr():
                    output.copy_(now)


def _tensors(nested: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, torch.Tensor)]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Functions are replayed from their second call on; a replay spoils what all other graphs have made."""
    graphs: list[Recording] = []

    def run(self: CapturedFunction, instance: Any, function: Callable[[], Outputs]) -> Outputs:
        for made in itertools.chain.from_iterable(graph.made for graph in graphs if graph is not instance.graph):
            _spoil(made)
        if instance.calls == 1:
            return function()
        if instance.graph is None:
            instance.graph = Recording()
            graphs.append(instance.graph)
            with instance.graph:  # which also computes, unlike a capture
                instance.outputs = function()
            return instance.outputs
        self.counts.replayed += 1
        instance.graph.replay()
        return instance.outputs

    monkeypatch.setattr(CapturedFunction, "_run", run)
    return graphs


def _spoil(tensor: torch.Tensor) -> None:
    if tensor.is_floating_point():
        tensor.detach().fill_(torch.nan)


@pytest.mark.parametrize("max_grad_norm", [None, 0.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("kept", KEPT)
def test_replays_alone_train_as_the_eager_method(
    kept: str, max_grad_norm: float | None, recorded: list[Recording]
) -> None:
    """Gradients summed over several graphs lie in none of them, and nothing hangs on Python that a replay leaves out.

    The optimizers are SGD's, for on a CPU AdamW counts steps in Python; all chunks hold as many tokens in as many
    texts, for on a CPU the kernels' shapes follow those.
    """
    generator = torch.Generator().manual_seed(0)
    table = ItemTable(torch.randint(3, 40, (24 * 5,), generator=generator), torch.arange(0, 24 * 5 + 1, 5))
    items = [torch.randperm(24, generator=generator)[:count].view(-1, 6) for count in (24, 12, 24, 24, 12, 24, 12)]
    steps = [Batch(drawn, torch.ones_like(drawn, dtype=torch.bool), drawn[:, 0] % 2, 4) for drawn in items]
    found = {}
    for name in ("eager", "chunks"):
        run = replace(prepared(), table=table)
        run.optimization = Optimization(
            torch.optim.SGD(run.encoder.parameters(), lr=1e-2, momentum=0.9),
            torch.optim.SGD(run.cf_module.parameters(), lr=1e-2, momentum=0.9),
            max_grad_norm=max_grad_norm,
        )
        method = chunked(run, chunk_tokens=30, kept_tokens=KEPT[kept]) if name == "chunks" else SingleStep(run)
        for step in steps:
            method.step(step)
        found[name] = parameters({"encoder": run.encoder, "cf": run.cf_module})
        if isinstance(method, CapturedChunkedStep):
            assert len(recorded) >= (3 if kept == "all" else 5)
            assert method.capture_counts()["replayed"] >= 8
    assert max(relative_errors(found["chunks"], found["eager"]).values()) <= 1e-10
    start = prepared()
    untouched = parameters({"encoder": start.encoder, "cf": start.cf_module})
    assert max(relative_errors(untouched, found["eager"]).values()) > 1e-3, "nothing moved, so nothing was shown"
