"""The GPU's attention within packed texts equals all scores at once: on a GPU, else in Triton's interpreter.

The reference runs in float64 on the same inputs. What the kernels leave unwritten shows: memory is handed out full of
no numbers.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gram_core.batch import Texts
from gram_core.kernels.prepared_heads import Preparation
from gram_core.kernels.text_attention import DTYPES, Rules, refuses, text_attention, tile_for
from gram_core.packing import PackedTexts, pack
from tests.gram_core._attention import PREPARATIONS, dense, in_type, preparation, weights

pytest.importorskip("triton")
GPU = torch.cuda.is_available()
RUNS = GPU or os.environ.get("TRITON_INTERPRET") == "1"
runs = pytest.mark.skipif(not RUNS, reason="runs below test_triton_kernels.py::test_in_the_interpreter")
on_a_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")
DEVICE = torch.device("cuda" if GPU else "cpu")
NARROW = torch.bfloat16 if GPU else torch.float32
"""The interpreter computes through numpy, which has no bf16."""
BOUND = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 7e-3}
"""Relative errors; of 16 bits, those of eager code in the same dtype are allowed too, where they are larger, and for n
numbers 3 / sqrt(n) more, since the sizes of two sets of n errors of rounding differ by 1 / sqrt(n) of them."""
LENGTHS = {
    64: [5, 1, 40, 30, 64, 2, 7],
    128: [5, 100, 1, 40, 128, 64, 7],
    None: [130, 1, 70, 3, 64, 65] if GPU else [3, 130, 1],
}
"""Per tile: texts of one token, that fill a tile, and that lie across several that walk."""
EVERY_RULE = list(itertools.product([False, True], [None, 0, 5, 70], [(2, 2), (6, 2)], [None, 3, 100]))
FEW_RULES = [(False, None, (1, 1), None), (True, 70, (4, 2), 3), (False, 5, (2, 1), 100), (True, None, (3, 1), None)]
FEW_PREPARED = [
    ("rotated", 64, True, None, (4, 2), None), ("normed", None, True, None, (2, 2), None),
    ("normed", 64, False, 5, (2, 1), None), ("rotated", None, False, 5, (1, 1), None),
    ("normed", 64, False, None, (2, 1), 3), ("rotated", None, False, None, (1, 1), 3),
]  # fmt: skip
EVERY_PREPARED = [(kind, block, *rule) for kind in PREPARATIONS[1:] for block in (64, 128, None) for rule in EVERY_RULE]
"""The interpreter takes seconds for each: both kinds and both tiles meet every rule, though not together."""


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    torch.manual_seed(3)
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def packed_texts(block: int | None) -> PackedTexts:
    """With texts that hold nothing and dummies, whose tiles lie behind the others."""
    lengths = LENGTHS[block]
    total = sum(lengths)
    texts = Texts(torch.randint(1, 50, (total,)), torch.tensor(lengths))
    return pack(texts, block, 0, total + 75, len(lengths) + 2).to(DEVICE)


def inputs(
    tokens: int, heads: int, key_heads: int, width: int, reach: int | None, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Queries that lie head by head; keys and values beside each other; a bias in float32."""
    q = torch.randn(heads, tokens, width, device=DEVICE).to(dtype).transpose(0, 1)
    k, v = torch.randn(tokens, 2, key_heads, width, device=DEVICE).to(dtype).unbind(1)
    return (q, k, v) if reach is None else (q, k, v, torch.randn(heads, 2 * reach + 1, device=DEVICE))


def computed(
    leaves: tuple[Tensor, ...],
    dout: Tensor,
    packed: PackedTexts,
    block: int | None,
    rules: Rules,
    how: Preparation | None = None,
) -> list:
    """What comes out and all gradients: on a GPU through the operator."""
    if GPU:
        leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        layout, bias = (packed.text_of, packed.offsets, packed.groups, block), leaves[3] if leaves[3:] else None
        out = text_attention(*leaves[:3], *layout, rules, bias, how)
        return [out.detach(), *torch.autograd.grad(out, (*leaves, *weights(how)), dout)]
    from gram_core.kernels import _text_attention_triton as kernels

    layout = (packed.text_of, packed.groups, block, rules, leaves[3] if leaves[3:] else None, how)
    out, logs = kernels.forward(*leaves[:3], *layout)
    joined, dbias, dweights = kernels.backward(dout, *leaves[:3], None if block else out, logs, *layout)
    parts = joined.split([part.shape[1] for part in leaves[:3]], 1)
    return [out, *parts, *([dbias] if leaves[3:] else []), *(dweights if weights(how) else [])]


def check(
    dtype: torch.dtype,
    block: int | None,
    rules: Rules,
    heads: tuple[int, int],
    width: int,
    reach: int | None,
    kind: str | None = None,
) -> None:
    packed = packed_texts(block)
    tokens = len(packed.tokens)
    leaves = inputs(tokens, *heads, width, reach, dtype)
    dout = torch.randn(tokens, heads[0], width, device=DEVICE).to(dtype)
    wide = tuple(leaf.detach().double().cpu().requires_grad_() for leaf in leaves)
    narrow = torch.float16 if dtype.itemsize == 2 else torch.float32  # as layers hand their tables over
    how = in_type(preparation(kind, tokens, width), torch.float32, DEVICE, narrow)
    exactly = in_type(how, torch.float64)

    def eagerly(leaves: tuple[Tensor, ...], how: Preparation | None) -> list[Tensor]:
        out = dense(leaves, packed.text_of.cpu(), rules, how)
        return [out.detach(), *torch.autograd.grad(out, (*leaves, *weights(how)), dout.cpu().to(leaves[0].dtype))]

    expected = eagerly(wide, exactly)
    found = computed(leaves, dout, packed, block, rules, how)
    assert found[0].is_contiguous()
    errors, allowed = _errors(found, expected), [BOUND[dtype]] * len(found)
    if dtype.itemsize == 2:
        rounded = tuple(leaf.detach().cpu().to(dtype).requires_grad_() for leaf in leaves)
        eager = _errors(eagerly(rounded, in_type(how, dtype)), expected)
        scatter = [1 + 3 / wanted.numel() ** 0.5 for wanted in expected]
        allowed = [max(least, error * room) for least, error, room in zip(allowed, eager, scatter, strict=True)]
    assert all(error <= most for error, most in zip(errors, allowed, strict=True)), (errors, allowed)


def _errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Relative to each tensor's size, which is nought where queries see themselves alone."""
    scales = [max(float(wanted.norm()), 1e-2 * wanted.numel() ** 0.5) for wanted in expected]
    return [
        float((mine.double().cpu() - wanted).norm()) / scale
        for mine, wanted, scale in zip(found, expected, scales, strict=True)
    ]


@runs
@pytest.mark.parametrize("block", [64, 128, None] if GPU else [64, None])
@pytest.mark.parametrize(("causal", "window", "heads", "reach"), EVERY_RULE if GPU else FEW_RULES)
def test_every_rule(
    block: int | None, causal: bool, window: int | None, heads: tuple[int, int], reach: int | None
) -> None:
    check(NARROW, block, Rules(0.25, causal, window), heads, 16, reach)


@runs
@pytest.mark.parametrize(
    ("kind", "block", "causal", "window", "heads", "reach"), EVERY_PREPARED if GPU else FEW_PREPARED
)
def test_every_rule_with_heads_prepared(
    kind: str, block: int | None, causal: bool, window: int | None, heads: tuple[int, int], reach: int | None
) -> None:
    check(NARROW, block, Rules(0.25, causal, window), heads, 16, reach, kind)


@runs
@pytest.mark.parametrize("kind", PREPARATIONS)
@pytest.mark.parametrize("dtype", DTYPES if GPU else [torch.float32], ids=str)
@pytest.mark.parametrize("block", [64, 128, None] if GPU else [64])
@pytest.mark.parametrize("width", [8, 16, 24, 32, 64, 80, 96, 128, 256] if GPU else [24])
def test_every_width(dtype: torch.dtype, block: int | None, width: int, kind: str | None) -> None:
    """Those that are no power of two too, in each tile that texts are packed for."""
    if block is not None and tile_for(block, width, dtype) != block:
        pytest.skip("texts are not packed for this tile")
    check(dtype, block, Rules(width**-0.5, causal=True), (4, 2) if GPU else (2, 1), width, None, kind)


@on_a_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [64, 128, None])
@pytest.mark.parametrize("width", [64, 128])
def test_a_bias_in_every_width(dtype: torch.dtype, block: int | None, width: int) -> None:
    if block is not None and tile_for(block, width, dtype) != block:
        pytest.skip("texts are not packed for this tile")
    check(dtype, block, Rules(width**-0.5), (4, 2), width, 9)


@on_a_gpu
@pytest.mark.parametrize("block", [64, None])
def test_the_same_sums_every_time(block: int | None) -> None:
    """No atomics: bit for bit."""
    packed = packed_texts(block)
    leaves = inputs(len(packed.tokens), 4, 2, 64, 9, torch.bfloat16)
    dout = torch.randn_like(leaves[0])
    first, second = (computed(leaves, dout, packed, block, Rules(0.125)) for _ in range(2))
    assert all(map(torch.equal, first, second))


@on_a_gpu
@pytest.mark.parametrize("block", [64, None])
@torch.fx.experimental._config.patch(use_duck_shape=False)
def test_compiled_around(block: int | None) -> None:
    packed = packed_texts(block)
    leaves = inputs(len(packed.tokens), 4, 2, 64, None, torch.bfloat16)
    dout = torch.randn_like(leaves[0])

    def step(*parts: Tensor) -> Tensor:
        doubled = [part * 2 for part in parts]
        return text_attention(*doubled, packed.text_of, packed.offsets, packed.groups, block, Rules(0.125)) * 2

    results = []
    for function in (step, torch.compile(step, fullgraph=True, dynamic=True)):
        held = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        out = function(*held)
        results.append((out, *torch.autograd.grad(out, held, dout)))
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=2e-2, atol=2e-2)


def test_what_is_refused() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert refuses(128, torch.bfloat16, cuda) is None
    assert refuses(512, torch.float64, cpu) is None
    assert refuses(256, torch.bfloat16, cuda) is None
    assert "wider than 256" in str(refuses(257, torch.bfloat16, cuda))
    assert "float64" in str(refuses(64, torch.float64, cuda))
    assert "no attention" in str(refuses(64, torch.float32, torch.device("mps")))


def test_tiles_are_the_least_that_hold_a_text() -> None:
    assert [tile_for(length, 64, torch.bfloat16) for length in (1, 64, 65, 128, 129)] == [64, 64, 128, 128, None]
    assert [tile_for(64, width, torch.float32) for width in (16, 64, 65)] == [64, 64, None]
    assert tile_for(65, 256, torch.bfloat16) is None
