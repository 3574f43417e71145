"""The fast engine computes what the eager one computes: packed and bucketed, every method, awkward lengths."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.utils.prune
from hypothesis import given, settings
from torch import Tensor, nn

from gram_core.batch import Batch, ItemTable, Texts
from gram_core.encoders import packed as packed_module
from gram_core.encoders._weights import LAYOUTS
from gram_core.encoders.bucketed import BucketedEncoder, length_bounds
from gram_core.encoders.packed import PackedEncoder, unsupported
from gram_core.engines import fast
from gram_core.engines._captured import Capacities, CapturedFunction
from gram_core.engines._inputs import NewItemsPacker, Packer, packed_texts
from gram_core.engines._tiers import FallBack
from gram_core.exactness import gradients, parameters, relative_errors
from gram_core.methods.multi_step import MultiStep
from gram_core.packing import pack, readers
from tests.gram_core._models import (
    EXACT,
    FAMILIES,
    METHODS,
    TEXT_LENGTH,
    make_encoder,
    make_table,
    make_training,
    with_adamw,
)
from tests.gram_core._precision import assert_as_close

ENGINES = ["fast", "bucketed", "packed"]
"""What the engine builds on this device; what it builds for other models; what it builds on a GPU."""
PACKED_FAMILIES = [family for family in FAMILIES if family in LAYOUTS]


def batch(users: int = 5, slots: int = 7, items: int = 24, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(users, slots, generator=generator) > 0.2
    mask[:, -2:] = True
    return Batch(
        torch.randint(0, items, (users, slots), generator=generator),
        mask,
        torch.randint(0, 2, (users,), generator=generator),
        slots - 2,
    )


@dataclass(frozen=True, eq=False)
class PricedBatch(Batch):
    """With a field of somebody's own."""

    prices: Tensor


@pytest.mark.parametrize("method", ["single_step", "multi_step"])
def test_captured_steps_refuse_a_batch_with_fields_that_their_graphs_lack(method: str) -> None:
    training = with_adamw(make_training(make_encoder()))
    one = batch()
    priced = PricedBatch(one.items, one.mask, one.targets, one.history_length, torch.rand(one.items.shape))
    captured = fast.build_packed(METHODS[method], training, METHODS[method].Settings(), PackedEncoder(training.encoder))
    with pytest.raises(TypeError, match="a PricedBatch has prices besides: use the engine eager"):
        captured.step(priced)
    captured.step(one)


def edge_batches() -> dict[str, Batch]:
    """Batches at the bounds: one unique item, all unique, one user."""
    one = batch()
    return {
        "one_unique_item": Batch(torch.full_like(one.items, 3), one.mask, one.targets, one.history_length),
        "all_unique": Batch(
            torch.arange(24).view(4, 6), torch.ones(4, 6, dtype=torch.bool), torch.zeros(4, dtype=torch.int64), 4
        ),
        "one_user": batch(users=1),
    }


def tables() -> dict[str, ItemTable]:
    """Texts at the bounds: one token each, all of full length, an empty text (its special tokens) among others."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(5, 40, (24, TEXT_LENGTH), generator=generator).tolist()
    return {
        "one_token": ItemTable.from_lists([row[:1] for row in words]),
        "full_length": ItemTable.from_lists(words),
        "an_empty_text": ItemTable.from_lists([[3, 4], *words[1:]]),
        "mixed": make_table(),
    }


def trained(method: type, engine: str, batches: list[Batch], table: ItemTable, family: str = "bert", **settings_):
    """Parameters after AdamW steps, and the losses on the way."""
    training = with_adamw(make_training(make_encoder(family), table=table), max_grad_norm=0.5)
    chosen = method.Settings(**settings_)
    built = {
        "eager": lambda: method(training, chosen),
        "fast": lambda: fast.build(method, training, chosen),
        "bucketed": lambda: method(replace(training, encoder=BucketedEncoder(training.encoder)), chosen),
        "packed": lambda: fast.build_packed(method, training, chosen, PackedEncoder(training.encoder)),
    }[engine]()
    losses = [float(built.step(one)) for one in batches]
    built.finish()
    return parameters({"encoder": training.encoder, "cf": training.cf_module}), losses


@cache
def left_eagerly(name: str) -> tuple[dict[str, Tensor], list[float]]:
    """What every engine is to leave, once for all of them."""
    return trained(EXACT[name], "eager", [batch(seed=seed) for seed in range(4)], make_table())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", sorted(EXACT))
def test_every_exact_method_trains_as_eagerly(name: str, engine: str) -> None:
    """A lost token, a stale offset or a wrong reader would leave other parameters behind."""
    expected, losses = left_eagerly(name)
    found, fast_losses = trained(EXACT[name], engine, [batch(seed=seed) for seed in range(4)], make_table())
    untouched = parameters({"encoder": make_encoder(), "cf": make_training().cf_module})
    assert max(relative_errors(found, expected).values()) <= 1e-10
    assert fast_losses == pytest.approx(losses, rel=1e-10)
    assert max(relative_errors(untouched, expected).values()) > 1e-4, "nothing moved, so nothing was shown"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings_", [{"accumulation_steps": 3}, {"accumulation_steps": 2, "ce_batch_tokens": 20}])
def test_multi_step_trains_as_eagerly(engine: str, settings_: dict[str, int]) -> None:
    batches = [batch(seed=seed) for seed in range(5)]
    expected, losses = trained(MultiStep, "eager", batches, make_table(), **settings_)
    found, fast_losses = trained(MultiStep, engine, batches, make_table(), **settings_)
    if "ce_batch_tokens" in settings_:  # of computed tokens: minibatches differ, and only losses start equal
        assert fast_losses[:2] == pytest.approx(losses[:2], rel=1e-10)
    else:
        assert max(relative_errors(found, expected).values()) <= 1e-10
        assert fast_losses == pytest.approx(losses, rel=1e-10)


def test_rows_without_an_item_draw_a_heads_bias_nowhere() -> None:
    """A captured minibatch has room for more texts than it holds, which are empty and no pseudo-target's."""

    def moved(build: Callable[[Any, Any], Any]) -> dict[str, Tensor]:
        encoder = make_encoder(with_head=True)
        encoder.head = encoder.head[:1]  # what normalises hides it: a unit vector's length has no gradient
        training = with_adamw(make_training(encoder))
        built = build(training, MultiStep.Settings(accumulation_steps=2, ce_passes=2))
        for seed in range(4):
            built.step(batch(users=1 + 2 * seed, seed=seed))
        built.finish()
        return parameters({"encoder": training.encoder, "cf": training.cf_module})

    found = moved(lambda training, s: fast.build_packed(MultiStep, training, s, PackedEncoder(training.encoder)))
    assert max(relative_errors(found, moved(MultiStep)).values()) <= 1e-8


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", [*sorted(tables()), *sorted(edge_batches())])
def test_awkward_texts_and_batches(engine: str, case: str) -> None:
    batches = [edge_batches()[case], batch()] if case in edge_batches() else [batch()]
    table = tables().get(case) or make_table()
    expected, _ = trained(EXACT["single_step"], "eager", batches, table)
    found, _ = trained(EXACT["single_step"], engine, batches, table)
    assert max(relative_errors(found, expected).values()) <= 1e-10


@pytest.mark.parametrize("with_head", [False, True], ids=["", "with a head"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", PACKED_FAMILIES)
@pytest.mark.parametrize("tile", ["holding texts", "walking over texts"])
def test_packed_encodings_and_gradients_equal_padded_ones(
    family: str, pooling: str, tile: str, with_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tile == "walking over texts":
        monkeypatch.setattr("gram_core.encoders.packed.tile_for", lambda *_: None)
    encoder, texts = make_encoder(family, pooling, with_head=with_head), make_table().texts(torch.arange(24))
    packed = PackedEncoder(encoder)
    weights = torch.randn(24, encoder.width, dtype=torch.float64)
    found = {}
    for name, run in (("padded", encoder), ("packed", packed)):
        encoder.zero_grad()
        encodings = run(texts)
        (encodings * weights).sum().backward()
        found[name] = (encodings.detach(), gradients({"encoder": encoder}))
    torch.testing.assert_close(found["packed"][0], found["padded"][0], rtol=1e-10, atol=1e-12)
    assert max(relative_errors(found["packed"][1], found["padded"][1]).values()) <= 1e-10


def test_nothing_is_kept_where_no_gradient_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding new items without a graph must not hold every layer's activations."""
    kept = []
    forward = packed_module.forward
    monkeypatch.setattr(packed_module, "forward", lambda *given, keep: kept.append(keep) or forward(*given, keep=keep))
    encoder, texts = PackedEncoder(make_encoder()), make_table().texts(torch.arange(6))
    with torch.no_grad():
        encoder(texts)
    assert encoder(texts).requires_grad
    assert kept == [False, True]


def test_the_rows_left_over_influence_nothing() -> None:
    """Dummy tokens and rows fill captured graphs up; poisoned, they must not be seen."""
    encoder, texts = make_encoder(), make_table().texts(torch.arange(10))
    packed_encoder = PackedEncoder(encoder)
    plain = packed_encoder(texts)
    packed = packed_encoder.pack(texts, token_capacity=200, text_capacity=32)
    packed.tokens[len(texts.tokens) :] = 7
    encodings = packed_encoder.encode(packed)
    encoder.zero_grad()
    encodings[:10].square().sum().backward()
    poisoned = gradients({"encoder": encoder})
    encoder.zero_grad()
    plain.square().sum().backward()
    torch.testing.assert_close(encodings[:10], plain, rtol=1e-10, atol=1e-12)
    assert max(relative_errors(poisoned, gradients({"encoder": encoder})).values()) <= 1e-10


def test_buffers_of_a_larger_batch_leave_nothing_behind() -> None:
    """The same static buffers serve batch after batch; whatever they held before must be overwritten."""
    encoder = PackedEncoder(make_encoder())
    table, packer = make_table(), Packer(encoder)
    function = CapturedFunction(lambda inputs: (encoder.encode(packed_texts(inputs)),), torch.device("cpu"))
    for items in (torch.arange(24), torch.arange(3), torch.tensor([23]), torch.arange(24)):
        inputs = packer.pack(table.texts(items))
        for instance in function._instances.values():
            instance.static.block.fill_(2**20)
            for block in instance.static.staging.blocks:
                block.memory.fill_(2**20)
        (encodings,) = function(inputs)
        torch.testing.assert_close(encodings[: len(items)], encoder.encoder(table.texts(items)))
    assert len(function.counts.signatures) < 4, "no buffer was used twice, so nothing was shown"


def test_bf16_gradients_are_as_close_to_float32_as_autocast() -> None:
    """Compute in bf16 on float32 master weights; matrices, for the gradients of vectors a CPU sums in bf16 itself,
    which no GPU does."""
    encoder = make_encoder().float()
    texts = make_table().texts(torch.arange(24))
    weights = torch.randn(24, encoder.width)
    found = {}
    runs = {"float32": encoder, "autocast": encoder, "packed": PackedEncoder(encoder, torch.bfloat16)}
    for name, run in runs.items():
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"):
            encodings = run(texts)
        (encodings.float() * weights).sum().backward()
        found[name] = {key: value for key, value in gradients({"encoder": encoder}).items() if value.dim() > 1}
    assert all(gradient.dtype == torch.float32 for gradient in found["packed"].values())
    assert_as_close(found["packed"], found["float32"], found["autocast"])


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("model type mpnet", {"family": "mpnet"}),
        ("pooling", {"pooling": "attention"}),
        ("pooling", {"pooling": "max"}),
        ("dropout", {"dropout": 0.1}),
    ],
)
def test_what_cannot_run_packed_says_why(reason: str, options: dict[str, object]) -> None:
    encoder = make_encoder(**options)
    assert reason in (unsupported(encoder) or "")
    with pytest.raises(ValueError, match=reason):
        PackedEncoder(encoder)


class _Scaled(nn.Linear):
    def forward(self, rows: Tensor) -> Tensor:
        return 2 * super().forward(rows)


def _with_subclass(model: Any) -> None:
    dense = model.encoder.layer[0].output.dense
    dense.__class__ = _Scaled


def _with_parametrization(model: Any) -> None:
    nn.utils.parametrizations.weight_norm(model.encoder.layer[0].output.dense)


def _with_pruning(model: Any) -> None:
    nn.utils.prune.l1_unstructured(model.encoder.layer[0].output.dense, "weight", amount=0.5)


def _with_own_forward(model: Any) -> None:
    norm = model.encoder.layer[1].output.LayerNorm
    norm.forward = lambda rows: rows


def _with_hook(model: Any) -> None:
    model.encoder.layer[1].register_forward_hook(lambda *_: None)


def _as_decoder(model: Any) -> None:
    model.config.is_decoder = True


@pytest.mark.parametrize(
    "change",
    [_with_subclass, _with_parametrization, _with_pruning, _with_own_forward, _with_hook, _as_decoder],
    ids=lambda change: change.__name__,
)
def test_a_model_that_is_not_the_librarys_own_does_not_run_packed(change: Callable[[Any], None]) -> None:
    """The pass reads weights from modules; what it does not know might compute something else with them."""
    encoder = make_encoder()
    assert unsupported(encoder) is None
    change(encoder.model)
    assert unsupported(encoder) is not None
    with pytest.warns(FallBack, match="packed: "):
        method = fast.build(EXACT["single_step"], make_training(encoder), None)
    assert not isinstance(method.training.encoder, PackedEncoder)
    # a decoder that was none when it was made sees later tokens in padded batches alone
    assert method.tier.tier == ("as given" if change is _as_decoder else "general")


def test_adapters_do_not_run_packed() -> None:
    peft = pytest.importorskip("peft")
    encoder = make_encoder()
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    encoder.model = peft.get_peft_model(encoder.model, config).get_base_model()
    assert "lora" in (unsupported(encoder) or "") or "Linear" in (unsupported(encoder) or "")


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=40), room=st.integers(0, 150), rows=st.integers(0, 5))
@settings(max_examples=60)
def test_packing_covers_every_token_in_tiles_of_whole_texts(lengths: list[int], room: int, rows: int) -> None:
    texts = Texts(torch.arange(1, sum(lengths) + 1), torch.tensor(lengths))
    packed = pack(texts, 64, 0, sum(lengths) + room, len(lengths) + rows)
    groups = packed.groups.tolist()
    assert groups[0] == 0
    assert groups[-1] == sum(lengths) + room
    assert all(0 <= stop - start <= 64 for start, stop in itertools.pairwise(groups))
    starts = {0} | {i for i in range(1, len(packed.text_of)) if packed.text_of[i] != packed.text_of[i - 1]}
    assert set(groups[:-1]) <= starts | {groups[-1]}, "a group starts inside a text"
    for number, length in enumerate(lengths):
        start = int(packed.offsets[number])
        assert packed.tokens[start : start + length].tolist() == texts.tokens[start : start + length].tolist()
        assert packed.positions[start : start + length].tolist() == list(range(length))
        assert set(packed.text_of[start : start + length].tolist()) == {number}
    assert (packed.offsets[len(lengths) :] == sum(lengths)).all()


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=12), room=st.integers(0, 150))
@settings(max_examples=60)
def test_walking_tiles_span_every_text_that_they_touch(lengths: list[int], room: int) -> None:
    texts = Texts(torch.arange(1, sum(lengths) + 1), torch.tensor(lengths))
    packed = pack(texts, None, 0, sum(lengths) + room)
    spans = packed.groups.view(-1, 2).tolist()
    assert len(spans) == -(-len(packed.tokens) // 64)
    for number, (start, stop) in enumerate(spans):
        touched = packed.text_of[64 * number : 64 * number + 64].unique()
        held = torch.isin(packed.text_of, touched).nonzero().flatten()
        assert (start, stop) == (int(held[0]), int(held[-1]) + 1)


@given(rows=st.integers(1, 12), data=st.data())
@settings(max_examples=40)
def test_readers_invert_slot_rows(rows: int, data: st.DataObject) -> None:
    flat = data.draw(st.lists(st.integers(-1, rows - 1), min_size=1, max_size=30))
    found = readers(torch.tensor([flat]), rows)
    for row in range(rows):
        slots = found.slots[found.offsets[row] : found.offsets[row + 1]].tolist()
        assert slots == [slot for slot, read in enumerate(flat) if read == row]


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9), call=st.integers(0, 20))
@settings(max_examples=60)
def test_length_runs_cost_least(lengths: list[int], call: int) -> None:
    """Against every way to cut the sorted texts."""
    ordered = sorted(lengths)
    bounds = length_bounds(ordered, lambda tokens: tokens + call)
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == len(ordered)

    def cost(cuts: list[tuple[int, int]]) -> int:
        return sum((stop - start) * ordered[stop - 1] + call for start, stop in cuts)

    n = len(ordered)
    every = ([0, *(i for i in range(1, n) if mask >> (i - 1) & 1), n] for mask in range(1 << (n - 1)))
    assert cost(bounds) == min(cost(list(itertools.pairwise(ends))) for ends in every)


def test_bucketed_tokens_are_what_it_computes() -> None:
    encoder = BucketedEncoder(make_encoder(), cost=lambda tokens: tokens + 4)
    lengths = torch.tensor([8, 2, 2, 8, 3, 2])
    computed = encoder.computed_tokens(lengths)
    assert (computed >= lengths).all()
    assert int(computed.sum()) < 8 * len(lengths)


def test_new_items_that_get_fewer_soon_find_their_sizes_again() -> None:
    """Interval after interval, from all items of a batch down to a few: 440 texts of 20 tokens at first."""
    packer = NewItemsPacker(PackedEncoder(make_encoder()))
    generator = torch.Generator().manual_seed(0)
    sizes, real, held = [], 0, 0
    for interval in range(4):
        for step in range(16):
            texts = int(440 / (1 + step) * (0.9 + 0.2 * float(torch.rand((), generator=generator))))
            tokens = int(texts * (18 + 4 * float(torch.rand((), generator=generator))))
            size = packer.capacities(tokens, texts)
            assert size[0] >= tokens
            assert size[1] >= texts
            sizes.append((interval, size))
            real, held = real + tokens, held + size[0]
    early, late = ({size for interval, size in sizes if (interval < 2) is first} for first in (True, False))
    assert len(early | late) <= 12
    assert len(late - early) <= 1
    assert held <= 1.35 * real


def test_minibatches_that_scatter_share_one_size() -> None:
    """Tokens and texts together, since a graph is bound to both."""
    packer = Packer(PackedEncoder(make_encoder()))
    generator = torch.Generator().manual_seed(0)
    sizes = set()
    for _ in range(50):
        scatter = 0.97 + 0.06 * torch.rand(2, generator=generator)
        tokens, texts = int(15_700 * float(scatter[0])), int(780 * float(scatter[1]))
        size = packer.capacities(tokens, texts)
        assert tokens <= size[0] <= 1.13 * tokens
        assert texts <= size[1] <= 1.3 * texts
        sizes.add(size)
    assert len(sizes) <= 2


def test_capacities_repeat_for_counts_that_scatter() -> None:
    capacities = Capacities(256)
    sizes = {capacities.fit(count) for count in range(8600, 8900, 7)}
    assert len(sizes) == 1
    assert all(capacities.fit(count) >= count for count in range(1, 3000, 13))
    assert capacities.fit(100) - 100 <= 512


@pytest.mark.parametrize("smallest", [16, 256])
def test_no_capacity_is_made_twice(smallest: int) -> None:
    """Steps of a count that its own size does not fit would look through more and more of them."""
    for count in range(1, 20_000):
        capacities = Capacities(smallest)
        assert capacities.fits(count, capacities.fit(count)), count
    for texts in range(1, 300):
        packer = Packer(SimpleNamespace())  # type: ignore[arg-type]
        for tokens in (texts, 19 * texts, 20 * texts, 19 * texts, 20 * texts):
            packer.capacities(tokens, texts)
        assert len(packer._pairs) == len(set(packer._pairs)) <= 3, texts
