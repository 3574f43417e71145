"""Attention within packed texts, whatever the rules, equals all scores at once with those of other texts hidden."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from gram_core.batch import Texts
from gram_core.kernels.prepared_heads import Norm, Preparation
from gram_core.kernels.text_attention import Rules, _flat, text_attention
from gram_core.packing import PackedTexts, pack
from tests.gram_core._attention import PREPARATIONS, dense, in_type, preparation, tables, weights


@dataclass(frozen=True)
class Case:
    """Queries, keys, values and a bias, drawn at random, as leaves of one graph."""

    packed: PackedTexts
    leaves: tuple[Tensor, ...]
    dout: Tensor
    how: Preparation | None = None

    def layout(self, block: int | None) -> tuple[Tensor, Tensor, Tensor, int | None]:
        return self.packed.text_of, self.packed.offsets, self.packed.groups, block


def case(
    lengths: list[int],
    heads: int,
    key_heads: int,
    reach: int | None,
    width: int = 4,
    block: int | None = 128,
    kind: str | None = None,
) -> Case:
    total = sum(lengths)
    texts = Texts(torch.randint(1, 50, (total,)), torch.tensor(lengths))
    packed = pack(texts, block, 0, total + 7, len(lengths) + 2)
    shapes = [(total + 7, heads, width), *[(total + 7, key_heads, width)] * 2]
    if reach is not None:
        shapes.append((heads, 2 * reach + 1))
    leaves = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    dout = torch.randn(shapes[0], dtype=torch.float64)
    dout[total:] = 0  # nobody reads what lies behind the texts
    return Case(packed, leaves, dout, in_type(preparation(kind, total + 7, width), torch.float64))


RULES = {
    "causal": st.booleans(),
    "window": st.sampled_from([None, 0, 3, 20, 200]),
    "heads": st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    "reach": st.sampled_from([None, 0, 2, 100]),
    "kind": st.sampled_from(PREPARATIONS),
    "seed": st.integers(0, 99),
}


@given(lengths=st.lists(st.integers(0, 70), min_size=1, max_size=8), **RULES)
@settings(max_examples=80)
def test_it_equals_all_scores_at_once(
    lengths: list[int],
    causal: bool,
    window: int | None,
    heads: tuple[int, int],
    reach: int | None,
    kind: str | None,
    seed: int,
) -> None:
    """Empty texts, texts of one token and tokens of no text included, forwards and backwards."""
    torch.manual_seed(seed)
    drawn = case(lengths, *heads, reach, kind=kind)
    rules, total = Rules(0.3, causal, window), sum(lengths)
    expected = dense(drawn.leaves, drawn.packed.text_of, rules, drawn.how)
    bias = drawn.leaves[3] if drawn.leaves[3:] else None
    found = text_attention(*drawn.leaves[:3], *drawn.layout(128), rules, bias, drawn.how)
    assert found.is_contiguous()
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(found[:total], expected[:total], **exact)
    assert not found[total:].any(), "rows of no text"
    leaves = (*drawn.leaves, *weights(drawn.how))
    gradients = torch.autograd.grad(found, leaves, drawn.dout)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, leaves, drawn.dout), strict=True):
        torch.testing.assert_close(gradient, wanted, **exact)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize(("reach", "kind"), [(None, None), (3, None), (None, "rotated"), (None, "normed")])
def test_narrow_numbers(dtype: torch.dtype, bound: float, reach: int | None, kind: str | None) -> None:
    """The bias and its gradient stay in float32 beside queries in bf16."""
    torch.manual_seed(5)
    drawn, rules = case([3, 40, 1, 33], 4, 2, reach, kind=kind), Rules(0.3, causal=True, window=20)
    how = in_type(drawn.how, torch.float32)
    exactly = in_type(how, torch.float64)
    narrow = tuple(leaf.detach().to(dtype).requires_grad_() for leaf in drawn.leaves[:3])
    narrow += tuple(leaf.detach().float().requires_grad_() for leaf in drawn.leaves[3:])
    wide = tuple(leaf.detach().double().requires_grad_() for leaf in narrow)
    found, expected = (
        text_attention(*narrow[:3], *drawn.layout(128), rules, narrow[3] if narrow[3:] else None, how),
        dense(wide, drawn.packed.text_of, rules, exactly),
    )
    pairs = [(found[:77], expected[:77])]
    pairs += zip(
        torch.autograd.grad(found, (*narrow, *weights(how)), drawn.dout.to(dtype)),
        torch.autograd.grad(expected, (*wide, *weights(exactly)), drawn.dout.to(dtype).double()),
        strict=True,
    )
    for mine, wanted in pairs:
        assert float((mine.double() - wanted).detach().norm() / wanted.detach().norm()) <= bound
    assert all(leaf.dtype == torch.float32 for leaf in narrow[3:])


def test_transposed_views_are_read_where_they_lie() -> None:
    """As transformers hands them over: [1, A, T, D], which is a view of [T, A, D] itself or is not."""
    torch.manual_seed(6)
    drawn, rules = case([3, 40, 1, 33], 4, 2, None), Rules(0.3)
    straight = text_attention(*drawn.leaves, *drawn.layout(128), rules)
    views = [leaf.detach().transpose(0, 1).contiguous().transpose(0, 1) for leaf in drawn.leaves]
    assert not views[0].is_contiguous()
    assert torch.equal(text_attention(*views, *drawn.layout(128), rules), straight)


@pytest.mark.parametrize("reach", [None, 3])
@torch.fx.experimental._config.patch(use_duck_shape=False)  # or sizes that happen to be equal would have to stay so
def test_one_opaque_operator_for_any_number_of_tokens(reach: int | None) -> None:
    """A compiled step holds it as one call, and another number of tokens or texts compiles nothing anew."""
    torch._dynamo.reset()
    rules, seen, compilations = Rules(0.3, causal=True, window=20), [], []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        seen.append(graph)
        return torch._dynamo.lookup_backend("aot_eager" if reach else "eager")(graph, inputs)

    def step(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> Tensor:
        heads = [part.transpose(0, 1)[None] for part in (q * 2, k, v)]
        found = text_attention(*(part[0].transpose(0, 1) for part in heads), *rest[:3], 128, rules, *rest[3:])
        return found.flatten(1) * 3

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=backend)
    for lengths in ([3, 40, 1, 33], [50, 60, 2], [9] * 30):
        drawn = case(lengths, 4, 2, reach)
        arguments = (*drawn.leaves[:3], *drawn.layout(128)[:3], *drawn.leaves[3:])
        results = []
        for function in (compiled, step):
            out = function(*arguments)
            results.append((out, *torch.autograd.grad(out, drawn.leaves, drawn.dout.flatten(1))))
        for mine, wanted in zip(*results, strict=True):
            torch.testing.assert_close(mine, wanted)
        compilations.append(len(seen))
    assert compilations == compilations[:1] * 3
    calls = [node.target for node in seen[-1].graph.nodes if "gram_core" in str(node.target)]
    assert calls == [torch.ops.gram_core.text_attention.default]


def test_the_operator_is_described_as_it_behaves() -> None:
    """Torch's own checks: schema, shapes without data, gradients' registration, and both under compilation."""
    torch.manual_seed(7)
    for reach, kind in ((None, None), (3, None), (None, "rotated"), (None, "normed")):
        drawn = case([3, 5], 4, 2, reach, kind=kind)
        bias = drawn.leaves[3] if drawn.leaves[3:] else None
        arguments = (*drawn.leaves[:3], *drawn.layout(128), 0.3, True, 20, bias, *_flat(drawn.how))
        torch.library.opcheck(torch.ops.gram_core.text_attention.default, arguments)


def test_misfits_are_refused() -> None:
    drawn = case([3, 5], 4, 2, 3)
    q, k, v, bias = drawn.leaves
    with pytest.raises(ValueError, match="do not fit keys"):
        text_attention(q[:, :3], k, v, *drawn.layout(128), Rules(0.3))
    with pytest.raises(ValueError, match="no row of odd length"):
        text_attention(q, k, v, *drawn.layout(128), Rules(0.3), bias[:, 1:])
    cos, sin = tables(len(q), 4)
    weight = torch.ones(4, dtype=torch.float64)

    def attend(*parts: Tensor, how: Preparation) -> None:
        text_attention(*parts, *drawn.layout(128), Rules(0.3), None, how)

    with pytest.raises(ValueError, match="do not turn heads"):
        attend(q, k, v, how=Preparation(cos, sin[:, :1]))
    with pytest.raises(ValueError, match="no two halves"):
        attend(q[..., :3], k[..., :3], v[..., :3], how=Preparation(cos, sin))
    with pytest.raises(ValueError, match="other weights than 4"):
        attend(q, k, v, how=Preparation(cos, sin, (Norm(weight, 0.0), Norm(weight[:3], 0.0))))
    with pytest.raises(ValueError, match="gets no gradient"):
        attend(q, k, v, how=Preparation(cos.requires_grad_(), sin))
