"""Attention within packed texts for any family of encoders: causal or both ways, windows, grouped heads, a bias.

One opaque operator for torch.compile, forwards and backwards, for any number of tokens. On a GPU it runs through tiles
that hold whole texts or, for longer ones, walk over them; on a CPU texts are padded for it, lot by lot.
T tokens packed, A query heads, K heads of keys and values, D head width, R the bias's reach.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gram_core.kernels.padded_text_attention import padded_text_attention, padded_text_attention_backward
from gram_core.kernels.prepared_heads import Norm, Preparation


@dataclass(frozen=True)
class Rules:
    """Which keys a query sees within its text, and by what the scores are multiplied.

    causal: none behind it; window: none further away than this many tokens, on either side.
    """

    scale: float
    causal: bool = False
    window: int | None = None


WIDEST = 256
"""Head width."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def refuses(head_width: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why heads of this width and type are not computed there; None where they are. A CPU takes any."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"there is no attention over packed texts for {device.type}"
    if head_width > WIDEST:
        return f"heads of {head_width} are wider than {WIDEST}"
    return None if dtype in DTYPES else f"heads of {dtype} are none of {', '.join(map(str, DTYPES))}"


def tile_for(text_length: int, head_width: int, dtype: torch.dtype) -> int | None:
    """What to pack texts of up to `text_length` tokens for: the tile that holds them whole; None where none does.

    Larger tiles, and those of wider heads in float32, would not fit a multiprocessor.
    """
    by_width = (128, 128, 64) if dtype.itemsize == 2 else (64, 0, 0)  # up to 64, up to 128, wider
    largest = by_width[(head_width > 64) + (head_width > 128)]
    return next((block for block in (64, 128) if text_length <= block <= largest), None)


def text_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text_of: Tensor,
    offsets: Tensor,
    groups: Tensor,
    block: int | None,
    rules: Rules,
    bias: Tensor | None = None,
    preparation: Preparation | None = None,
) -> Tensor:
    """Queries q [T, A, D], keys k and values v [T, K, D] -> [T, A, D], contiguous; each text sees itself alone.

    Query head a reads key head a // (A / K). Strides are free but for the last dimension's.
    text_of, offsets, groups: as `PackedTexts` has them, packed for `block`; rows of no text hold nothing of use.
    bias [A, 2R + 1]: what is added to the scaled score of query i and key j at j - i + R, clamped into its range.
    preparation: what is done to queries and keys before they meet; the norms' weights get gradients, nothing else.
    """
    _, heads, width = q.shape
    key_heads = k.shape[1]
    if heads % key_heads or k.shape != v.shape or k.shape[2] != width:
        raise ValueError(f"queries {tuple(q.shape)} do not fit keys {tuple(k.shape)} and values {tuple(v.shape)}")
    if bias is not None and (bias.shape[0] != heads or bias.shape[1] % 2 == 0):
        raise ValueError(f"a bias {tuple(bias.shape)} has no row of odd length for each of {heads} heads")
    if preparation is not None and (reason := preparation.refuses(q.shape)) is not None:
        raise ValueError(reason)
    layout, last = (text_of, offsets, groups, block), (rules.scale, rules.causal, rules.window, bias)
    return _text_attention(q, k, v, *layout, *last, *_flat(preparation))[0]


@torch.library.custom_op("gram_core::text_attention", mutates_args=())
def _text_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text_of: Tensor,
    offsets: Tensor,
    groups: Tensor,
    block: int | None,
    scale: float,
    causal: bool,
    window: int | None,
    bias: Tensor | None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    q_eps: float = 0.0,
    k_eps: float = 0.0,
    q_eps_apart: Tensor | None = None,
    k_eps_apart: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What comes out and, on a GPU, the log-sums of weights [A, T] for the backward.

    q_eps_apart, k_eps_apart: a number each, in the host's memory, to be added to q_eps and k_eps: what a compiled graph
    takes as an input must not become a constant of it.
    """
    rules, how = (
        Rules(scale, causal, window),
        _preparation(cos, sin, q_weight, k_weight, q_eps, k_eps, q_eps_apart, k_eps_apart),
    )
    if not q.is_cuda:
        if how is not None:
            q, k = how.of_queries(q), how.of_keys(k)
        return padded_text_attention(q, k, v, offsets, rules, bias), _nothing(q)
    from gram_core.kernels import _text_attention_triton

    return _text_attention_triton.forward(q, k, v, text_of, groups, block, rules, bias, how)


@_text_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text_of: Tensor,
    offsets: Tensor,
    groups: Tensor,
    block: int | None,
    scale: float,
    causal: bool,
    window: int | None,
    bias: Tensor | None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    q_eps: float = 0.0,
    k_eps: float = 0.0,
    q_eps_apart: Tensor | None = None,
    k_eps_apart: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    logs = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32) if q.is_cuda else _nothing(q)
    return q.new_empty(q.shape), logs


@torch.library.custom_op("gram_core::text_attention_backward", mutates_args=())
def _text_attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    logs: Tensor,
    text_of: Tensor,
    offsets: Tensor,
    groups: Tensor,
    block: int | None,
    scale: float,
    causal: bool,
    window: int | None,
    bias: Tensor | None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    q_eps: float = 0.0,
    k_eps: float = 0.0,
    q_eps_apart: Tensor | None = None,
    k_eps_apart: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values side by side, [T, A + 2 K, D]: where they come of one product, theirs
    is the one of its result. And in float32 or wider the bias's and those of the norms' weights [2, D], or nothing."""
    rules, how = (
        Rules(scale, causal, window),
        _preparation(cos, sin, q_weight, k_weight, q_eps, k_eps, q_eps_apart, k_eps_apart),
    )
    if not q.is_cuda:
        met, dweights = (q, k) if how is None else (how.of_queries(q), how.of_keys(k)), _nothing(q)
        dq, dk, dv, dbias = padded_text_attention_backward(dout, *met, v, offsets, rules, bias)
        if how is not None:
            dq, dk, dweights = how.gradients((q, k), (dq, dk))
        return torch.cat([dq, dk, dv], 1), _nothing(q) if dbias is None else dbias, dweights
    from gram_core.kernels import _text_attention_triton

    return _text_attention_triton.backward(dout, q, k, v, out, logs, text_of, groups, block, rules, bias, how)


@_text_attention_backward.register_fake
def _(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    logs: Tensor,
    text_of: Tensor,
    offsets: Tensor,
    groups: Tensor,
    block: int | None,
    scale: float,
    causal: bool,
    window: int | None,
    bias: Tensor | None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    q_eps: float = 0.0,
    k_eps: float = 0.0,
    q_eps_apart: Tensor | None = None,
    k_eps_apart: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, heads, width = q.shape
    of_bias = _nothing(q) if bias is None else bias.new_empty(bias.shape, dtype=_wide(bias))
    of_weights = _nothing(q) if q_weight is None else q_weight.new_empty(2, width, dtype=_wide(q_weight))
    return q.new_empty(tokens, heads + 2 * k.shape[1], width), of_bias, of_weights


def _nothing(like: Tensor) -> Tensor:
    return like.new_empty(0, dtype=torch.float32)


def _flat(how: Preparation | None) -> tuple[Any, ...]:
    """A preparation as the operator takes it."""
    if how is None:
        return ()
    if how.norms is None:
        return how.cos, how.sin
    return how.cos, how.sin, *(norm.weight for norm in how.norms), *(norm.eps for norm in how.norms)


def _preparation(
    cos: Tensor | None,
    sin: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    q_eps: float,
    k_eps: float,
    q_eps_apart: Tensor | None,
    k_eps_apart: Tensor | None,
) -> Preparation | None:
    if cos is None or sin is None:
        return None
    if q_weight is None or k_weight is None:
        return Preparation(cos, sin)
    q_eps += 0.0 if q_eps_apart is None else float(q_eps_apart)
    k_eps += 0.0 if k_eps_apart is None else float(k_eps_apart)
    return Preparation(cos, sin, (Norm(q_weight, q_eps), Norm(k_weight, k_eps)))


def _wide(bias: Tensor) -> torch.dtype:
    return torch.promote_types(bias.dtype, torch.float32)


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, text_of, offsets, groups, block, scale, causal, window, bias, *how = inputs
    cos, sin, q_weight, k_weight, q_eps, k_eps, *apart = how
    out, logs = output
    ctx.mark_non_differentiable(logs)
    ctx.set_materialize_grads(False)
    kept = out if q.is_cuda and block is None else None
    ctx.save_for_backward(q, k, v, kept, logs, text_of, offsets, groups, bias, cos, sin, q_weight, k_weight, *apart)
    ctx.constants, ctx.eps = (block, scale, causal, window), (q_eps, k_eps)


def _differentiate(ctx: Any, dout: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if dout is None:
        return (None,) * 19
    *tensors, bias, cos, sin, q_weight, k_weight, q_apart, k_apart = ctx.saved_tensors
    how = (cos, sin, q_weight, k_weight, *ctx.eps, q_apart, k_apart)
    joined, dbias, dweights = _text_attention_backward(dout, *tensors, *ctx.constants, bias, *how)
    heads, key_heads = tensors[0].shape[1], tensors[1].shape[1]
    dq, dk, dv = joined.split([heads, key_heads, key_heads], 1)
    of_weights: tuple[Tensor | None, ...] = (None, None)
    if q_weight is not None:
        of_weights = (dweights[0].to(q_weight.dtype), dweights[1].to(k_weight.dtype))
    of_bias = None if bias is None else dbias.to(bias.dtype)
    return dq, dk, dv, *(None,) * 7, of_bias, None, None, *of_weights, *(None,) * 4


_text_attention.register_autograd(_differentiate, setup_context=_keep)
OPERATOR = torch.ops.gram_core.text_attention.default
"""As compiled graphs hold it."""
