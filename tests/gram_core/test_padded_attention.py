"""Attention over packed texts on a CPU equals attention text by text."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gram_core.batch import offsets_of
from gram_core.kernels.padded_attention import padded_attention, padded_attention_backward


def text_by_text(qkv: Tensor, offsets: Tensor) -> Tensor:
    """The rows of no text behind the others are zeros."""
    rows = []
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        q, k, v = qkv[start:stop].permute(1, 2, 0, 3)
        rows.append(scaled_dot_product_attention(q, k, v, scale=0.3).transpose(0, 1))
    return torch.cat([*rows, torch.zeros_like(qkv[int(offsets[-1]) :, 0])])


@given(lengths=st.lists(st.integers(0, 70), min_size=1, max_size=9), spare=st.integers(0, 5), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_it_equals_attention_text_by_text(lengths: list[int], spare: int, seed: int) -> None:
    """Empty texts and rows of no text, which hold what they like, included."""
    torch.manual_seed(seed)
    total = sum(lengths)
    offsets = offsets_of(torch.tensor(lengths)).to(torch.int32)
    qkv = torch.randn(total + spare, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    dout = torch.randn(total + spare, 2, 4, dtype=torch.float64)
    expected = text_by_text(qkv, offsets)
    (of_expected,) = torch.autograd.grad(expected, qkv, dout)
    qkv, sums = qkv.detach(), torch.full((1, 24), 9.0, dtype=torch.float64)
    qkv[total:] = torch.inf
    torch.testing.assert_close(padded_attention(qkv, offsets, 0.3), expected.detach())
    found = padded_attention_backward(dout, qkv, offsets, 0.3, sums)
    torch.testing.assert_close(found, of_expected)
    torch.testing.assert_close(sums[0], of_expected.flatten(1).sum(0))
