"""Attention norms and rotates by itself what layers would for it: in every family that does, and the same comes out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.encoders.shape import SHAPES
from gram_core.encoders import _layer_calls, _layer_compilation
from gram_core.encoders._preparation_pass import PreparingAttention
from gram_core.encoders._rotary_tables import NAME, Halves, RotaryTables, whole
from gram_core.encoders.general import GeneralEncoder
from gram_core.exactness import Float64Throughout, relative_errors
from gram_core.kernels.prepared_heads import Preparation
from gram_core.kernels.text_attention import OPERATOR, Rules, text_attention
from tests.gram_core._attention import tables
from tests.gram_core.test_general_encoder import FAMILIES, encoded, encoder_of, texts_of
from tests.gram_core.test_text_attention import case


@pytest.fixture(autouse=True)
def _compiled_anew() -> Iterator[None]:
    torch._dynamo.reset()
    _layer_calls._compiled.cache_clear()
    yield
    _layer_calls._compiled.cache_clear()
    torch._dynamo.reset()


class Rewriting:
    """A backend that has the pass rewrite a graph, and runs it operator by operator."""

    def __init__(self, backend: str = "eager") -> None:
        self.backend, self.graphs = backend, list[torch.fx.GraphModule]()

    def __call__(self, module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        PreparingAttention()(module.graph)
        module.graph.lint()
        module.recompile()
        self.graphs.append(module)
        return torch._dynamo.lookup_backend(self.backend)(module, inputs)

    @property
    def prepares(self) -> list[str | None]:
        """What attention does, per attention."""
        calls = [node for module in self.graphs for node in module.graph.nodes if node.target is OPERATOR]
        kinds = {11: None, 13: "rotated", 19: "normed"}
        return [kinds[len(node.args) if any(node.args[11:]) else 11] for node in calls]

    @property
    def joins(self) -> int:
        """How many tensors are joined, as halves of a head are."""
        return sum(node.target is torch.cat for module in self.graphs for node in module.graph.nodes)


def kind_of(encoder: torch.nn.Module) -> str | None:
    """What the model's own attention does to queries and keys."""
    if any(name.endswith("q_norm") for name, _ in encoder.named_modules()):
        return "normed"
    return "rotated" if any("Rotary" in type(module).__name__ for module in encoder.modules()) else None


def test_families_of_the_registry_that_rotate_are_here() -> None:
    from transformers import AutoConfig

    families = {
        shape.family for shape in SHAPES.values() if hasattr(AutoConfig.for_model(shape.family), "rope_parameters")
    }
    assert families
    assert families <= FAMILIES.keys()


ROTATING = [family for family in FAMILIES if kind_of(encoder_of(family))]


@pytest.mark.parametrize("family", [*ROTATING, "mpnet"])
def test_encodings_and_gradients_are_those_of_the_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them through a traced backward pass too, as the operator's own is traced where layers are compiled."""
    rewriting = Rewriting("aot_eager" if family == "qwen3" else "eager")
    monkeypatch.setattr(_layer_calls, "compiled", lambda f: torch.compile(f, dynamic=True, backend=rewriting))
    encoder = encoder_of(family)
    general = GeneralEncoder(encoder)
    for lengths in ((5, 9, 3), (30, 2)):
        packed = general.pack(texts_of(*lengths))
        with Float64Throughout():
            expected, gradients = encoded(partial(general.alone().encode, packed), encoder)
            general._compiles = True
            mine, found = encoded(partial(general.encode, packed), encoder)
        assert max(relative_errors({"": mine, **found}, {"": expected, **gradients}).values()) <= 1e-10
    assert set(rewriting.prepares) == {kind_of(encoder)}
    assert kind_of(encoder) is None or not rewriting.joins, "something of the rotation is left"


@pytest.mark.parametrize("family", [each for each in ROTATING if each not in ("eurobert", "mistral")])
def test_attention_in_16_bits_reads_tables_of_16_bits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those left out rotate by llama's code."""
    rewriting = Rewriting()
    monkeypatch.setattr(_layer_calls, "compiled", lambda f: torch.compile(f, dynamic=True, backend=rewriting))
    general = GeneralEncoder(encoder_of(family, torch.float32), torch.bfloat16)
    general._compiles = True
    general.encode(general.pack(texts_of(5, 9, 3))).float().sum().backward()
    given = [
        node.args[11:13]
        for graph in rewriting.graphs
        for node in graph.graph.find_nodes(op="call_function", target=OPERATOR)
    ]
    assert given
    assert {table.meta["example_value"].dtype for pair in given for table in pair} == {torch.float16}
    assert not rewriting.joins, "something of the rotation is left"


def half_turned(x: Tensor) -> Tensor:
    near, far = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-far, near), dim=-1)


def as_written(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos[:, None]) + (half_turned(x) * sin[:, None])


def the_other_way_round(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.add(torch.mul(sin.unsqueeze(1), half_turned(x)), cos.unsqueeze(1) * x)


def in_wider_numbers(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.double()
    return (wide * cos[:, None].double() + half_turned(x.double()) * sin[:, None].double()).to(x.dtype)


def head_by_head(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    y = x.transpose(0, 1)[None]
    return (y * cos[None, None] + half_turned(y) * sin[None, None])[0].transpose(0, 1)


def backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    near, far = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * cos[:, None] + torch.cat((far, -near), -1) * sin[:, None]


def neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    swapped = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cos[:, None] + swapped * sin[:, None]


def in_part(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned, rest = x[..., :4], x[..., 4:]
    return torch.cat((turned * cos[:, None, :4] + half_turned(turned) * sin[:, None, :4], rest), -1)


def unevenly(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    swapped = torch.cat((-x[..., 2:], x[..., :2]), -1)
    return x * cos[:, None] + swapped * sin[:, None]


def of_another(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos[:, None] + half_turned(x * 2) * sin[:, None]


def by_other_tables(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return as_written(x, cos * x.shape[1], sin)


def by_tables_per_head(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos[:, None].expand(-1, x.shape[1], -1) + half_turned(x) * sin[:, None]


def and_changed(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = as_written(x, cos, sin)
    x.mul_(2)
    return turned + x.sum() * 0


KNOWN = (as_written, the_other_way_round, in_wider_numbers, head_by_head)
UNKNOWN = (backwards, neighbours, in_part, unevenly, of_another, by_other_tables, by_tables_per_head, and_changed)


@pytest.mark.parametrize(("rotate", "joined"), [*((each, True) for each in (*KNOWN, *UNKNOWN)), (as_written, False)])
def test_what_is_not_known_is_left_as_it_is(rotate: Any, joined: bool) -> None:
    """joined: whether halves of tables are seen to be the same."""
    torch.manual_seed(2)
    drawn, rewriting = case([3, 9], 4, 2, None, width=6), Rewriting()
    halves = tables(len(drawn.leaves[0]), 6)
    given = halves if joined else tuple(torch.cat((half, half), -1) for half in halves)

    def attend(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if joined:
            cos, sin = (torch.cat((half, half), -1) for half in (cos.view(-1, 3), sin.view(-1, 3)))
        q, k = (rotate((part * 1).view(len(part), -1, 6), cos, sin) for part in (q, k))
        return text_attention(q, k, v, *drawn.layout(128), Rules(0.3, causal=True))

    found = []
    for function in (attend, torch.compile(attend, fullgraph=True, dynamic=True, backend=rewriting)):
        out = function(*drawn.leaves, *given)
        found.append((out, *torch.autograd.grad(out, drawn.leaves, drawn.dout)))
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)
    assert rewriting.prepares == ["rotated" if joined and rotate in KNOWN else None]


def as_qwen(x: Tensor, weight: Tensor, norm: Any) -> Tensor:
    wide = x.to(torch.float64)
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)).to(x.dtype)


def as_gemma(x: Tensor, weight: Tensor, norm: Any) -> Tensor:
    unit = x.double() * torch.rsqrt(norm.eps + torch.mean(torch.pow(x.double(), 2), -1, keepdim=True))
    return (unit * (1.0 + weight.double())).type_as(x)


def by_a_sum(x: Tensor, weight: Tensor, norm: Any) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + norm.eps))


def over_heads(x: Tensor, weight: Tensor, norm: Any) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).mean((-1, -2), keepdim=True) + norm.eps))


def of_fourth_powers(x: Tensor, weight: Tensor, norm: Any) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + norm.eps))


def of_other_sizes(x: Tensor, weight: Tensor, norm: Any) -> Tensor:
    return weight * (x * torch.rsqrt((x + 1).pow(2).mean(-1, keepdim=True) + norm.eps))


def by_weights_per_head(x: Tensor, weight: Tensor, norm: Any) -> Tensor:
    return as_qwen(x, weight.expand(x.shape[1], -1), norm)


NORMS = (as_qwen, as_gemma)
OTHERS = (by_a_sum, over_heads, of_fourth_powers, of_other_sizes, by_weights_per_head)


@pytest.mark.parametrize("norm", [*NORMS, *OTHERS])
def test_norms_that_are_not_known_are_left_as_they_are(norm: Any) -> None:
    known = norm in NORMS
    check_norm(norm, "normed" if known else "rotated", constant=True, backend="aot_eager" if known else "eager")


def test_what_a_norm_adds_may_be_an_input() -> None:
    """As torch has numbers that it finds in a layer: one graph serves layers that differ in them."""
    check_norm(as_qwen, "normed", constant=False, backend="eager")


def check_norm(norm: Any, kind: str, *, constant: bool, backend: str = "eager") -> None:
    torch.manual_seed(3)
    drawn, rewriting = case([3, 9], 4, 2, None, width=6), Rewriting(backend)
    halves = tables(len(drawn.leaves[0]), 6)
    fixed = torch.nn.Module()
    fixed.eps = 1e-2
    leaves = (*drawn.leaves, *torch.randn(2, 6, dtype=torch.float64).requires_grad_().unbind())

    def attend(settings: Any, q: Tensor, k: Tensor, v: Tensor, of_q: Tensor, of_k: Tensor, *halves: Tensor) -> Tensor:
        by = settings or fixed
        both = [torch.cat((half, half), -1) for half in halves]
        q, k = (norm(part.view(len(part), -1, 6), weight.view(6), by) for part, weight in ((q, of_q), (k, of_k)))
        q, k = as_written(q, *both), as_written(k, *both)
        return text_attention(q, k, v, *drawn.layout(128), Rules(0.3, causal=True))

    found = []
    for function in (attend, torch.compile(attend, fullgraph=True, dynamic=True, backend=rewriting)):
        out = function(None if constant else fixed, *leaves, *halves)
        found.append((out, *torch.autograd.grad(out, leaves, drawn.dout)))
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)
    assert rewriting.prepares == [kind]
    if kind == "normed":
        (node,) = rewriting.graphs[-1].graph.find_nodes(op="call_function", target=OPERATOR)
        assert node.args[15:17] == ((1e-2, 1e-2) if constant else (0.0, 0.0))
        assert (node.args[17] is None) is constant


def test_tables_that_learn_stay_outside() -> None:
    drawn, rewriting = case([3, 9], 4, 2, None, width=6), Rewriting()
    halves = [half.requires_grad_() for half in tables(len(drawn.leaves[0]), 6)]

    def attend(q: Tensor, k: Tensor, v: Tensor, *halves: Tensor) -> Tensor:
        both = [torch.cat((half, half), -1) for half in halves]
        q, k = (as_written(part.view(len(part), -1, 6), *both) for part in (q, k))
        return text_attention(q, k, v, *drawn.layout(128), Rules(0.3))

    out = torch.compile(attend, fullgraph=True, dynamic=True, backend=rewriting)(*drawn.leaves, *halves)
    assert all(gradient.any() for gradient in torch.autograd.grad(out, halves, drawn.dout))
    assert rewriting.prepares == [None]


def test_tables_are_halved_once_their_halves_are_seen_to_be_the_same() -> None:
    layers, known = [torch.nn.Identity() for _ in range(3)], RotaryTables(torch.float32)
    halves = tables(5, 8)
    same = {NAME: tuple(torch.cat((half, half), -1)[None] for half in halves), "else": 1}
    other = {NAME: tuple(torch.cat((half, half + 1), -1)[None] for half in halves)}
    still = {NAME: (torch.ones(1, 2, 8), torch.zeros(1, 2, 8))}
    assert not isinstance(known.halved(layers[0], still)[NAME], Halves), "angles of nought tell nothing"
    narrow = known.halved(layers[0], same)
    assert isinstance(narrow[NAME], Halves)
    assert all(map(torch.equal, whole(narrow)[NAME], same[NAME]))
    assert whole(narrow)["else"] == 1
    assert isinstance(known.halved(layers[0], still)[NAME], Halves)
    assert known.halved(layers[1], other) is other
    for unknown in (None, same[NAME][0], (same[NAME][0], None), (same[NAME][0], same[NAME][1][..., :3])):
        inputs = {NAME: unknown}
        assert whole(known.halved(layers[2], inputs)) is inputs


def test_tables_are_read_in_16_bits_where_layers_compute_in_16_and_made_once_in_a_pass() -> None:
    torch.manual_seed(0)
    known = RotaryTables(torch.bfloat16)
    layers, halves = [torch.nn.Identity() for _ in range(2)], tables(5, 8)
    inputs = {NAME: tuple(torch.cat((half, half), -1)[None] for half in halves)}
    first, second = (known.halved(layer, inputs)[NAME] for layer in layers)
    assert first is second
    for table, half in zip(first, halves, strict=True):
        assert table.dtype == torch.float16
        assert 0 < (table[0].double() - half).abs().max() <= (half.bfloat16().double() - half).abs().max() / 4
    known.pass_is_over()
    assert known.halved(layers[0], inputs)[NAME] is not first


@pytest.mark.skipif(shutil.which("g++") is None and not torch.cuda.is_available(), reason="needs a compiler")
def test_torch_has_the_pass_rewrite_what_it_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the compiler that layers go through, and again where it has their graph in its cache."""
    drawn, seen = case([3, 9], 4, 2, None, width=6), []
    own = Preparation.of_queries
    monkeypatch.setattr(Preparation, "of_queries", lambda how, q: seen.append(1) or own(how, q))

    def attend(q: Tensor, k: Tensor, v: Tensor, *halves: Tensor) -> Tensor:
        both = [torch.cat((half, half), -1) for half in halves]
        q, k = (as_written(part.view(len(part), -1, 6), *both) for part in (q, k))
        return text_attention(q, k, v, *drawn.layout(128), Rules(0.3))

    halves = tables(len(drawn.leaves[0]), 6)
    expected = attend(*drawn.leaves, *halves)
    assert not seen
    for _ in range(2):
        torch._dynamo.reset()
        with _layer_compilation.compiling():
            found = _layer_compilation.compiled(attend)(*drawn.leaves, *halves)
        torch.testing.assert_close(found, expected)
        assert seen
        seen.clear()
