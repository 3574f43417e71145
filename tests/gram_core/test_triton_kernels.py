"""Each Triton kernel computes what its reference does: on a GPU where there is one, else in Triton's interpreter.

The references run in float64 on the same inputs; shapes are ragged and no power of two.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gram_core.batch import Texts
from gram_core.kernels import adamw, embedding, gelu, layer_norm, segments
from gram_core.packing import WALKING, PackedTexts, pack

triton = pytest.importorskip("triton")
GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
RUNS = GPU or INTERPRETED
if RUNS:
    from gram_core.kernels import (
        _adamw_triton,
        _column_sums_triton,
        _embedding_triton,
        _gelu_triton,
        _layer_norm_triton,
        _long_attention_triton,
        _segments_triton,
        _short_attention_triton,
    )
runs = pytest.mark.skipif(not RUNS, reason="runs below `test_in_the_interpreter`")
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPES = [torch.float32, torch.bfloat16] if GPU else [torch.float32]
"""The interpreter computes through numpy, which has no bf16."""
BOUND = {torch.float32: 2e-6, torch.bfloat16: 6e-3}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


def packed_texts(lengths: list[int], block: int | None = 64, spare: int = 9) -> PackedTexts:
    total = sum(lengths)
    texts = Texts(torch.randint(1, 50, (total,)), torch.tensor(lengths))
    return pack(texts, block, 0, total + spare, len(lengths) + 2).to(DEVICE)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    error = (found.double().cpu() - expected.double().cpu()).norm() / expected.double().cpu().norm()
    assert float(error) <= BOUND[dtype], float(error)


def dense_attention(qkv: Tensor, text_of: Tensor) -> tuple[Tensor, Tensor]:
    """Attention within texts by all scores [A, T, T], and their log-sums; to be differentiated."""
    q, k, v = qkv.unbind(1)
    scores = torch.einsum("iad,jad->aij", q, k) * qkv.shape[3] ** -0.5
    scores = scores.masked_fill(text_of[:, None] != text_of[None, :], -math.inf)
    return torch.einsum("aij,jad->iad", torch.softmax(scores, -1), v), torch.logsumexp(scores, -1)


def dense_gradient(qkv: Tensor, text_of: Tensor, gradient: Tensor) -> Tensor:
    leaf = qkv.clone().requires_grad_()
    return torch.autograd.grad(dense_attention(leaf, text_of)[0], leaf, gradient)[0].flatten(1)


def double(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().double().cpu().clone() for tensor in tensors]


@pytest.mark.skipif(RUNS, reason="they run here")
def test_in_the_interpreter() -> None:
    """Those of attention too. Triton is to be imported with its interpreter switched on: in one process for all."""
    files = [__file__, str(Path(__file__).with_name("test_text_attention_triton.py"))]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-vv", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for file in files:
        assert re.search(rf"{Path(file).name}::.* PASSED", run.stdout), f"nothing ran of {file}"


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(1, 48), (13, 96)])
def test_layer_norm(dtype: torch.dtype, rows: int, width: int) -> None:
    x, residual, gradient = (random(rows, width, dtype=dtype) for _ in range(3))
    weight, bias = random(width), random(width)
    wide = double(x, residual, gradient, weight, bias)
    out, statistics = _layer_norm_triton.add_norm(x, residual, weight, bias, 1e-5)
    total = double(x)[0]
    expected, of_reference = layer_norm.add_norm(wide[0], wide[1], wide[3], wide[4], 1e-5)
    close(out, expected, dtype)
    close(total, wide[0], dtype)
    close(statistics, of_reference, dtype)
    also = random(rows, width, dtype=dtype) if rows > 1 else None
    wide_also = None if also is None else double(also)[0]
    partials, one = random(3, 3 * width), torch.empty(1, 3 * width, dtype=torch.float64)
    back = _layer_norm_triton.add_norm_backward(gradient, also, x, statistics, weight, partials)
    assert back.data_ptr() == gradient.data_ptr()
    statistics_of = torch.stack([total.mean(1), torch.rsqrt(total.var(1, correction=0) + 1e-5)])
    close(back, layer_norm.add_norm_backward(wide[2], wide_also, total, statistics_of, wide[3], one), dtype)
    close(partials.sum(0), one[0], dtype)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gelu(dtype: torch.dtype) -> None:
    x, gradient = random(21, 300, dtype=dtype), random(21, 300, dtype=dtype)
    wide_x, wide_gradient = double(x, gradient)
    close(_gelu_triton.gelu(x), gelu.gelu(wide_x), dtype)
    partials, one = random(2, 300), torch.empty(1, 300, dtype=torch.float64)
    back = _gelu_triton.gelu_backward(gradient, x, partials)
    close(back, gelu.gelu_backward(wide_gradient, wide_x, one), dtype)
    close(partials.sum(0), one[0], dtype)


@runs
def test_column_sums() -> None:
    partials = random(37, 100)
    close(_column_sums_triton.column_sums(partials, random(100)), partials.double().sum(0), torch.float32)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [64, 128] if GPU else [64])
def test_attention(dtype: torch.dtype, block: int) -> None:
    packed = packed_texts([5, 1, 40, 30, block, 2, 7], block, spare=70)
    qkv, gradient = random(len(packed.tokens), 3, 2, 16, dtype=dtype), random(len(packed.tokens), 2, 16, dtype=dtype)
    wide, wide_gradient = double(qkv, gradient)
    groups, text_of = packed.groups.tolist(), packed.text_of.cpu()
    found = _short_attention_triton.forward(qkv, packed.groups, packed.text_of, 0.25, block)
    close(found, dense_attention(wide, text_of)[0], dtype)
    sums = random(len(groups) - 1, 96)
    back = _short_attention_triton.backward(gradient, qkv, packed.groups, packed.text_of, 0.25, block, sums)
    expected = dense_gradient(wide, text_of, wide_gradient)
    close(back.flatten(1), expected, dtype)
    close(sums, torch.stack([expected[start:stop].sum(0) for start, stop in itertools.pairwise(groups)]), dtype)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_attention(dtype: torch.dtype) -> None:
    """Texts of one token, of several tiles, and dummies, whose spans overlap."""
    packed = packed_texts([130, 1, 70, 3, 64, 65], None, spare=75)
    tokens = len(packed.tokens)
    qkv, gradient = random(tokens, 3, 2, 16, dtype=dtype), random(tokens, 2, 16, dtype=dtype)
    wide, wide_gradient = double(qkv, gradient)
    text_of = packed.text_of.cpu()
    out, logs = _long_attention_triton.forward(qkv, packed.groups, packed.text_of, 0.25)
    for found, expected in zip((out, logs), dense_attention(wide, text_of), strict=True):
        close(found, expected, dtype)
    sums = random(len(packed.groups) // 2, 96)
    back = _long_attention_triton.backward(gradient, out, logs, qkv, packed.groups, packed.text_of, 0.25, sums)
    expected = dense_gradient(wide, text_of, wide_gradient)
    close(back.flatten(1), expected, dtype)
    close(sums, torch.stack([rows.sum(0) for rows in expected.split(WALKING)]), dtype)


@runs
@pytest.mark.parametrize("types", [True, False])
def test_embedding(types: bool) -> None:
    packed = packed_texts([3, 1, 8, 8, 2])
    tables = (random(50, 48), random(20, 48), *([random(2, 48)] if types else []))
    weights = embedding.EmbeddingWeights(
        tables[0], tables[1], tables[2] if types else None, random(48), random(48), 1e-5, first_position=2, ignored=7
    )
    wide = embedding.EmbeddingWeights(
        *(None if table is None else double(table)[0] for table in (weights.words, weights.positions, weights.types)),
        *double(weights.norm_weight, weights.norm_bias), 1e-5, 2, 7,
    )  # fmt: skip
    on_host = PackedTexts(*(tensor.cpu() for tensor in packed.tensors()))
    out, statistics = _embedding_triton.embed(packed, weights, torch.float32)
    expected, of_reference = embedding.embed(on_host, wide, torch.float64)
    close(out, expected, torch.float32)
    close(statistics, of_reference, torch.float32)
    gradient, also = random(len(packed.tokens), 48), random(len(packed.tokens), 48) if types else None
    partials, one = random(2, 96), torch.empty(1, 96, dtype=torch.float64)
    of_words = random(*tables[0].shape)
    (words,) = double(of_words)
    moved = _embedding_triton.embed_backward(gradient, also, packed, statistics, weights, partials, of_words)
    of_tables = (words, *(torch.full(table.shape, 9.0, dtype=torch.float64) for table in tables[1:]))
    wide_also = None if also is None else double(also)[0]
    embedding.embed_backward(double(gradient)[0], wide_also, on_host, of_reference, wide, one, of_tables, 9)
    close(of_words, of_tables[0], torch.float32)
    close(partials.sum(0), one[0], torch.float32)
    sums = random(9, 48)
    _embedding_triton.position_sums(moved, packed.offsets, sums)
    close(sums, of_tables[1][2:11], torch.float32)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_segments(dtype: torch.dtype) -> None:
    packed = packed_texts([3, 1, 8, 20, 2])
    rows, n = random(len(packed.tokens), 48, dtype=dtype), len(packed.offsets) - 1
    (wide,) = double(rows)
    found = _segments_triton.segment_sum(rows, None, packed.offsets, mean=True)
    close(found, segments.segment_mean(wide, packed.offsets.cpu()), dtype)
    means = random(n, 48)
    spread = _segments_triton.spread_means(means, packed.offsets, packed.text_of, dtype)
    on_host = (packed.offsets.cpu(), packed.text_of.cpu(), torch.float64)
    close(spread, segments.spread_means(double(means)[0], *on_host), dtype)


@runs
@pytest.mark.parametrize("sizes", [(48, 160), (50, 33)], ids=["aligned", "ragged"])
def test_adamw(sizes: tuple[int, int]) -> None:
    """Three steps beside torch's own, one learning rate a tensor; addresses and settings change on the way."""
    ours = [random(*sizes).requires_grad_(), random(sizes[1]).requires_grad_()]
    theirs = [parameter.detach().clone().requires_grad_() for parameter in ours]
    options = dict(lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    optimizers = [torch.optim.AdamW(parameters, **options) for parameters in (ours, theirs)]
    narrow = [torch.zeros(sizes, dtype=torch.bfloat16, device=DEVICE) if GPU else None, None]
    gradients = [torch.zeros_like(p, dtype=torch.bfloat16 if GPU and p.dim() > 1 else None) for p in ours]
    entries = [adamw.Entry(p, g, c, 0) for p, g, c in zip(ours, gradients, narrow, strict=True)]
    parts = [entries[:1], entries[1:]]
    update = adamw.FusedAdamW(optimizers[0], parts)
    if not GPU:
        update._launch = _adamw_triton.Launch(parts, update._moments(), update._groups())
    for step in range(3):
        if step == 1:
            held = optimizers[0].state[ours[0]]["exp_avg"]
            optimizers[0].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
            assert optimizers[0].state[ours[0]]["exp_avg"] is not held, "state lies elsewhere from now on"
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = torch.tensor(3e-3, device=DEVICE)
        update.refresh()
        for parameter, gradient in zip(theirs, gradients, strict=True):
            gradient.copy_(random(*gradient.shape))
            parameter.grad = gradient.float()
        with torch.no_grad():
            for part in range(2):
                update.step(part)
        optimizers[1].step()
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other, torch.float32)
        for name in ("exp_avg", "exp_avg_sq", "step"):
            close(optimizers[0].state[mine][name], optimizers[1].state[other][name], torch.float32)
    if narrow[0] is not None:
        assert torch.equal(narrow[0], ours[0].bfloat16())
