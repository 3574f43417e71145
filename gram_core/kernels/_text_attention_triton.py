"""`text_attention` on a GPU: which kernel, in which sizes, and where its results lie.

T tokens packed, A query heads, K heads of keys and values, D head width, R the bias's reach, G tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from gram_core.kernels import _text_tiles_triton, _text_walk_triton
from gram_core.kernels.relative_bias import by_distance
from gram_core.packing import WALKING

if TYPE_CHECKING:
    from gram_core.kernels.text_attention import Rules

TILES_SUMMED = 4
"""Tiles of whole texts whose scores' gradients one program adds up for a bias: fewer sums to store, longer programs."""
WALKED_SUMMED = 32
"""The same of tiles that walk."""


def _tile_sizes(width: int, itemsize: int, block: int, backward: bool) -> dict[str, int]:
    return {"rows": block, "num_warps": 4 if block <= 64 else 8, "num_stages": 1}


def _walk_sizes(width: int, itemsize: int, kernel: str) -> dict[str, int]:
    return {"block": WALKING, "step": WALKING, "num_warps": 4, "num_stages": 2}


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text_of: Tensor,
    groups: Tensor,
    block: int | None,
    rules: Rules,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """q [T, A, D], k and v [T, K, D] -> [T, A, D], and log-sums [A, T] in powers of two where tiles walk."""
    (q, k, v), tokens, heads = _rows(q, k, v), *q.shape[:2]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    logs = torch.empty((heads, tokens) if block is None else 0, dtype=torch.float32, device=q.device)
    numbers, constants = _numbers(q, rules, bias), _constants(q, k, rules, block, bias)
    if block is None:
        sizes = _walk_sizes(constants["width"], q.element_size(), "forward")
        _text_walk_triton.forward_kernel[(triton.cdiv(tokens, sizes["block"]) * heads,)](
            q, k, v, out, logs, groups, text_of, *numbers, tokens, *_strides(q, k, v), **constants, **sizes
        )
    else:
        sizes = _tile_sizes(constants["width"], q.element_size(), block, backward=False)
        _text_tiles_triton.forward_kernel[((len(groups) - 1) * heads,)](
            q, k, v, out, groups, text_of, *numbers, *_strides(q, k, v), **constants, block=block, **sizes
        )
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, contiguous, and the bias's in float32, empty where there is none."""
    rows = _rows(dout, q, k, v)
    if block is None:
        assert out is not None, "kept by `text_attention`"
        return _walk_backward(*rows, out, logs, text_of, groups, rules, bias)
    grouped = q.shape[1] // k.shape[1]
    if bias is None or grouped == 1:
        return _tiles_backward(*rows, text_of, groups, block, rules, bias)
    dout, q, *shared = rows  # the kernel adds up scores' gradients for one query head at a time
    own = [part.repeat_interleave(grouped, 1) for part in shared]
    dq, *gradients, dbias = _tiles_backward(dout, q, *own, text_of, groups, block, rules, bias)
    dk, dv = (gradient.unflatten(1, (-1, grouped)).sum(2) for gradient in gradients)
    return dq, dk, dv, dbias


def _tiles_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text_of: Tensor,
    groups: Tensor,
    block: int,
    rules: Rules,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (q, k, v))
    constants = _constants(q, k, rules, block, bias)
    sizes = _tile_sizes(constants["width"], q.element_size(), block, backward=True)
    repeats = 1
    if bias is not None:
        repeats, sizes["rows"] = TILES_SUMMED, block
    count = len(groups) - 1
    parts = triton.cdiv(count, repeats)
    pairs = torch.empty(0 if bias is None else (parts, q.shape[1], block, block), dtype=torch.float32, device=q.device)
    _text_tiles_triton.backward_kernel[(parts * k.shape[1],)](
        q, k, v, dout, dq, dk, dv, pairs, groups, text_of, *_numbers(q, rules, bias), count, *_strides(q, k, v, dout),
        **constants, block=block, repeats=repeats, **sizes,
    )  # fmt: skip
    return dq, dk, dv, pairs if bias is None else by_distance(pairs.sum(0), bias.shape[1])


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (q, k, v))
    tokens, heads, _ = q.shape
    deltas, constants = torch.empty_like(logs), _constants(q, k, rules, None, bias)
    last = (spans, text_of, *_numbers(q, rules, bias), tokens)
    strides, width, itemsize = _strides(q, k, v, dout), constants["width"], q.element_size()
    sizes = _walk_sizes(width, itemsize, "queries")
    _text_walk_triton.queries_kernel[(triton.cdiv(tokens, sizes["block"]) * heads,)](
        q, k, v, dout, out, logs, deltas, dq, *last, *strides, **constants, **sizes
    )
    sizes = _walk_sizes(width, itemsize, "keys")
    _text_walk_triton.keys_kernel[(triton.cdiv(tokens, sizes["block"]) * k.shape[1],)](
        q, k, v, dout, logs, deltas, dk, dv, *last, *strides, **constants, **sizes
    )
    if bias is None:
        return dq, dk, dv, torch.empty(0, dtype=torch.float32, device=q.device)
    near = (bias.shape[1] // 2 + WALKING - 2) // WALKING  # tiles further off lie beyond the bias's reach as a whole
    parts, slots = triton.cdiv(tokens, WALKING * WALKED_SUMMED), 2 * near + 3
    pairs = torch.empty(parts, slots, heads, WALKING, WALKING, dtype=torch.float32, device=q.device)
    del constants["biased"]
    sizes = _walk_sizes(width, itemsize, "pairs")
    _text_walk_triton.pairs_kernel[(parts * slots * heads,)](
        q, k, v, dout, logs, deltas, pairs, *last, near, *strides, **constants, repeats=WALKED_SUMMED, **sizes
    )
    total = pairs.sum(0)
    beside = total[1:-1].permute(1, 2, 0, 3).flatten(2)
    dbias = by_distance(beside, bias.shape[1], (total[0].sum((1, 2)), total[-1].sum((1, 2))))
    return dq, dk, dv, dbias


def _rows(*parts: Tensor) -> tuple[Tensor, ...]:
    """As they lie, unless a head's numbers do not lie one behind the other."""
    return tuple(part if part.stride(2) == 1 else part.contiguous() for part in parts)


def _strides(*parts: Tensor) -> list[int]:
    return [stride for part in parts for stride in part.stride()[:2]]


def _numbers(q: Tensor, rules: Rules, bias: Tensor | None) -> tuple[Tensor, float, int, int, int]:
    """What a kernel knows of the bias, the rules and the heads; q stands where there is no bias."""
    window = rules.window or 0
    if bias is None:
        return q, rules.scale, window, 0, q.shape[1]
    return bias.contiguous(), rules.scale, window, bias.shape[1] // 2, q.shape[1]


def _constants(q: Tensor, k: Tensor, rules: Rules, block: int | None, bias: Tensor | None) -> dict[str, int | str]:
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
