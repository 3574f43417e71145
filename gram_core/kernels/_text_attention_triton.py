"""`text_attention` on a GPU: which kernel, in which sizes, and where its results lie.

T tokens packed, A query heads, K heads of keys and values, D head width, R the bias's reach, G tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor

from gram_core.kernels import _text_preparation_triton, _text_tiles_triton, _text_walk_triton
from gram_core.kernels.prepared_heads import Norm, Preparation
from gram_core.kernels.relative_bias import by_distance

if TYPE_CHECKING:
    from gram_core.kernels.text_attention import Rules

Sizes = dict[str, int]

# Sizes by the widest head that they are for. Beside them the registers of a thread and the KiB of shared memory that
# Triton 3.6 takes in 16 bits on Hopper, which has 255 and 227: all but one spill none. Chunks of 32 queries leave room
# for a key head's two gradients, which stay on chip while its query heads go by. Of 64 rows of scores
# each four of eight warps compute all: eight are for heads of 256, whose other products need them. Where queries and
# keys are prepared on the way, heads of 64 take up to 221 registers, wider ones up to all 255; rotations alone spill 24
# bytes of each thread backwards with heads of 128 (16 in the lesser tile), 72 with heads of 256.
TILES_FORWARD = {
    64: {64: (64, 4), 128: (64, 4)},  # 80 to 94, 24; 160 to 223, 40
    128: {64: (64, 4), 128: (64, 4)},  # 130, 48; 201 to 239, 80
    256: {64: (64, 8)},  # 143, 96
}
"""Per tile of whole texts: queries at a time, and warps."""
TILES_BACKWARD = {
    64: {64: (64, 4), 128: (64, 8)},  # 145, 32; 243, 48
    128: {64: (32, 4), 128: (64, 8)},  # 254, 64; 255, 96
    256: {64: (32, 8)},  # 255 and 428 bytes of each thread's spilled, 128
}
"""The same."""
SHARED = 32
"""Queries at a time, backwards in the lesser tile, where query heads share keys: 176 registers; 64 spill."""
WALKS = {
    64: {
        "forward": (64, 64, 4, 2),  # 157, 40
        "queries": (64, 64, 4, 2),  # 176, 48
        "keys": (64, 32, 4, 2),  # 252, 32
        "pairs": (64, 64, 4, 1),  # 228, 32
    },
    128: {
        "forward": (64, 64, 4, 2),  # 230, 80
        "queries": (64, 32, 4, 2),  # 190, 64
        "keys": (64, 32, 4, 1),  # 252, 48
        "pairs": (64, 64, 4, 1),  # 255, 64
    },
    256: {
        "forward": (64, 32, 8, 2),  # 178, 96
        "queries": (64, 32, 8, 2),  # 217, 128
        "keys": (64, 32, 8, 1),  # 249, 96
        "pairs": (64, 64, 8, 1),  # 144, 128
    },
}
"""Per kernel of tiles that walk: a tile's tokens, those of a step, warps, and steps in flight."""
SINGLE = {
    64: {"forward": (64, 64, 4, 1), "queries": (64, 64, 4, 1), "keys": (64, 32, 4, 1), "pairs": (64, 64, 4, 1)},
    128: {"forward": (64, 32, 4, 1), "queries": (64, 16, 4, 1), "keys": (64, 16, 4, 1), "pairs": (64, 64, 4, 1)},
    256: {"forward": (32, 16, 4, 1), "queries": (16, 16, 4, 1), "keys": (16, 16, 4, 1), "pairs": (16, 16, 4, 1)},
}
"""The same in float32, whose products in three parts take their operands three times: they fit, but spill registers."""
TILES_SUMMED, WALKED_SUMMED = 4, 32
"""Tiles whose scores' gradients one program adds up for a bias: the more, the fewer sums to store, and programs."""


def _tile_sizes(width: int, block: int, backward: bool, grouped: int) -> Sizes:
    rows, warps = (TILES_BACKWARD if backward else TILES_FORWARD)[max(64, width)][block]
    if backward and grouped > 1 and block == 64:
        rows = SHARED
    return {"block": block, "rows": rows, "num_warps": warps, "num_stages": 1}


def _walk_sizes(width: int, itemsize: int, kernel: str) -> Sizes:
    block, step, warps, stages = (WALKS if itemsize == 2 else SINGLE)[max(64, width)][kernel]
    return {"block": block, "step": step, "num_warps": warps, "num_stages": stages}


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text_of: Tensor,
    groups: Tensor,
    block: int | None,
    rules: Rules,
    bias: Tensor | None,
    preparation: Preparation | None = None,
) -> tuple[Tensor, Tensor]:
    """q [T, A, D], k and v [T, K, D] -> [T, A, D], and log-sums [A, T], in powers of two."""
    q, k, v = (_row(part) for part in (q, k, v))
    how = _Turning.of(preparation)
    if block is None and how is not None:
        q, k = how.prepared(q, k)
    tokens, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    logs = torch.empty(heads, tokens, dtype=torch.float32, device=q.device)
    numbers, constants = _numbers(q, rules, bias), _constants(q, k, rules, block, bias)
    if block is None:
        sizes = _walk_sizes(constants["width"], q.element_size(), "forward")
        _text_walk_triton.forward_kernel[(triton.cdiv(tokens, sizes["block"]) * heads,)](
            q, k, v, out, logs, groups, text_of, *numbers, tokens, *_strides(q, k, v), **constants, **sizes
        )
    else:
        pointers, turning, turn_row = _turning(q, how)
        constants |= turning
        sizes = _tile_sizes(constants["width"], block, False, constants["grouped"])
        first, *others = numbers
        _text_tiles_triton.forward_kernel[((len(groups) - 1) * heads,)](
            q, k, v, out, logs, groups, text_of, first, *pointers, *others, tokens,
            *_strides(q, k, v), turn_row, **constants, **sizes,
        )  # fmt: skip
    return out, logs


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    logs: Tensor,
    text_of: Tensor,
    groups: Tensor,
    block: int | None,
    rules: Rules,
    bias: Tensor | None,
    preparation: Preparation | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients: of q, k and v [T, A + 2 K, D]; in float32, empty where there are none, of the bias and of the norms'
    weights [2, D]."""
    dout, q, k, v = (_row(part) for part in (dout, q, k, v))
    how = _Turning.of(preparation)
    if block is None:
        assert out is not None, "kept by `text_attention`"
        if how is None:
            return *_walk_backward(dout, q, k, v, out, logs, text_of, groups, rules, bias), _none(q)
        joined, dbias = _walk_backward(dout, *how.prepared(q, k), v, out, logs, text_of, groups, rules, bias)
        return joined, dbias, how.turn_back(joined, q, k)
    grouped = q.shape[1] // k.shape[1]
    if bias is None or grouped == 1:
        return _tiles_backward(dout, q, k, v, logs, text_of, groups, block, rules, bias, how)
    # a program adds up the gradients of one query head's scores
    k, v = k.repeat_interleave(grouped, 1), v.repeat_interleave(grouped, 1)
    joined, dbias, dweights = _tiles_backward(dout, q, k, v, logs, text_of, groups, block, rules, bias, how)
    dq, *others = joined.chunk(3, 1)
    return torch.cat([dq, *(part.unflatten(1, (-1, grouped)).sum(2) for part in others)], 1), dbias, dweights


def _tiles_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    logs: Tensor,
    text_of: Tensor,
    groups: Tensor,
    block: int,
    rules: Rules,
    bias: Tensor | None,
    how: _Turning | None,
) -> tuple[Tensor, Tensor, Tensor]:
    joined, gradients = _gradients(q, k)
    pointers, turning, turn_row = _turning(q, how)
    constants = _constants(q, k, rules, block, bias) | turning
    sizes = _tile_sizes(constants["width"], block, True, constants["grouped"])
    repeats = 1
    if bias is not None:
        repeats, sizes["rows"] = TILES_SUMMED, block
    tiles = len(groups) - 1
    parts = triton.cdiv(tiles, repeats)
    pairs = torch.empty(0 if bias is None else (parts, q.shape[1], block, block), dtype=torch.float32, device=q.device)
    first, *numbers = _numbers(q, rules, bias)
    _text_tiles_triton.backward_kernel[(parts * k.shape[1],)](
        q, k, v, dout, logs, *gradients, pairs, groups, text_of, first, *pointers, *numbers, len(q), tiles,
        *_strides(q, k, v, dout), joined.stride(0), turn_row, **constants, repeats=repeats, **sizes,
    )  # fmt: skip
    dbias = pairs if bias is None else by_distance(pairs.sum(0), bias.shape[1])
    return joined, dbias, _none(q) if how is None or how.norms is None else how.turn_back(joined, q, k)


def _walk_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logs: Tensor,
    text_of: Tensor,
    spans: Tensor,
    rules: Rules,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    joined, (dq, dk, dv) = _gradients(q, k)
    tokens, heads, _ = q.shape
    deltas, constants = torch.empty_like(logs), _constants(q, k, rules, None, bias)
    last = (spans, text_of, *_numbers(q, rules, bias), tokens)
    strides, width, itemsize = _strides(q, k, v, dout), constants["width"], q.element_size()
    g_row = joined.stride(0)
    sizes = _walk_sizes(width, itemsize, "queries")
    _text_walk_triton.queries_kernel[(triton.cdiv(tokens, sizes["block"]) * heads,)](
        q, k, v, dout, out, logs, deltas, dq, *last, *strides, g_row, **constants, **sizes
    )
    sizes = _walk_sizes(width, itemsize, "keys")
    _text_walk_triton.keys_kernel[(triton.cdiv(tokens, sizes["block"]) * k.shape[1],)](
        q, k, v, dout, logs, deltas, dk, dv, *last, *strides, g_row, **constants, **sizes
    )
    if bias is None:
        return joined, _none(q)
    sizes = _walk_sizes(width, itemsize, "pairs")
    block = sizes["block"]
    near = (bias.shape[1] // 2 + block - 2) // block  # tiles further off lie beyond the bias's reach as a whole
    parts, slots = triton.cdiv(tokens, block * WALKED_SUMMED), 2 * near + 3
    pairs = torch.empty(parts, slots, heads, block, block, dtype=torch.float32, device=q.device)
    del constants["biased"], sizes["step"]
    _text_walk_triton.pairs_kernel[(parts * slots * heads,)](
        q, k, v, dout, logs, deltas, pairs, *last, near, *strides, **constants, repeats=WALKED_SUMMED, **sizes
    )
    total = pairs.sum(0)
    beside = total[1:-1].permute(1, 2, 0, 3).flatten(2)
    dbias = by_distance(beside, bias.shape[1], (total[0].sum((1, 2)), total[-1].sum((1, 2))))
    return joined, dbias


def _row(part: Tensor) -> Tensor:
    """As it lies, unless a head's numbers do not lie one behind the other."""
    return part if part.stride(2) == 1 else part.contiguous()


class _Turning:
    """A preparation as kernels read it: tables row by row, in strides alike."""

    def __init__(self, how: Preparation):
        like = how.cos.stride() == how.sin.stride() and how.cos.stride(1) == 1
        self.tables = (how.cos, how.sin) if like else (how.cos.contiguous(), how.sin.contiguous())
        self.norms = how.norms and tuple(Norm(norm.weight.contiguous(), norm.eps) for norm in how.norms)

    @classmethod
    def of(cls, how: Preparation | None) -> _Turning | None:
        return None if how is None else cls(how)

    def prepared(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        met = (_text_preparation_triton.prepared(part, *self.tables, norm) for part, norm in self._each(q, k))
        return next(met), next(met)

    def turn_back(self, joined: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Has the gradients of q and k prepared, in `joined`, become those of q and k; returns the norms' [2, D]."""
        gradients = joined.split([q.shape[1], k.shape[1], k.shape[1]], 1)
        shares = [
            _text_preparation_triton.turn_back(gradient, part, *self.tables, norm)
            for gradient, (part, norm) in zip(gradients, self._each(q, k), strict=False)
        ]
        if self.norms is None:
            return shares[0]
        return _of_weights(torch.stack([share.sum(0) for share in shares]), q.shape[2])

    def _each(self, q: Tensor, k: Tensor) -> Iterator[tuple[Tensor, Norm | None]]:
        return zip((q, k), self.norms or (None, None), strict=True)


def _turning(q: Tensor, how: _Turning | None) -> tuple[tuple[Any, ...], dict[str, Any], int]:
    """What a kernel of tiles knows of the preparation: cos, sin, weights and eps; q stands where there is nothing."""
    if how is None:
        return (q, q, q, q, 0.0, 0.0), {"rotated": False, "normed": False}, 0
    half = max(16, triton.next_power_of_2(q.shape[2] // 2))
    weights: list[Any] = [q, q, 0.0, 0.0]
    if how.norms is not None:
        weights = [norm.weight for norm in how.norms] + [norm.eps for norm in how.norms]
    constants = {"rotated": True, "normed": how.norms is not None, "width": 2 * half}
    return (*how.tables, *weights), constants, how.tables[0].stride(0)


def _gradients(q: Tensor, k: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Room for those of q, k and v side by side, [T, A + 2 K, D], and its three parts."""
    tokens, heads, width = q.shape
    sizes = [heads, k.shape[1], k.shape[1]]
    joined = torch.empty(tokens, sum(sizes), width, dtype=q.dtype, device=q.device)
    return joined, joined.split(sizes, 1)


def _of_weights(sums: Tensor, columns: int) -> Tensor:
    """[2, D] of sums [2, 2, half] of the near and far half's columns, some of which may lie beyond D / 2."""
    return sums[..., : columns // 2].flatten(1)


def _none(like: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float32, device=like.device)


def _strides(*parts: Tensor) -> list[int]:
    return [stride for part in parts for stride in part.stride()[:2]]


def _numbers(q: Tensor, rules: Rules, bias: Tensor | None) -> tuple[Tensor, float, int, int, int]:
    """What a kernel knows of the bias, the rules and the heads; q stands where there is no bias."""
    window = rules.window or 0
    if bias is None:
        return q, rules.scale, window, 0, q.shape[1]
    return bias.contiguous(), rules.scale, window, bias.shape[1] // 2, q.shape[1]


def _constants(q: Tensor, k: Tensor, rules: Rules, block: int | None, bias: Tensor | None) -> dict[str, Any]:
    exact = q.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return {
        "grouped": q.shape[1] // k.shape[1],
        "columns": q.shape[2],
        "width": max(16, triton.next_power_of_2(q.shape[2])),
        "causal": rules.causal,
        "windowed": rules.window is not None and (block is None or rules.window < block - 1),
        "biased": bias is not None,
        "precision": "tf32x3" if exact else "tf32",
    }
