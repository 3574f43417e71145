"""A Hugging Face language model on packed texts: real tokens only, attention through tiles of several texts.

The model is transformers' own; only its attention is replaced, through its attention interface, and its
weights are read in the compute dtype. T tokens packed, n texts, d width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from gram_core.batch import Texts
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.pooling import ClsPooling, MeanPooling
from gram_core.kernels.segments import segment_mean
from gram_core.kernels.short_attention import BLOCKS, short_attention
from gram_core.packing import PackedTexts, pack

FIRST_POSITION = {"bert": 0, "distilbert": 0, "roberta": None, "xlm-roberta": None}
"""Models that run packed, by `model_type`: the position id of a text's first token; None is padding id + 1."""

ATTENTION = "gram_core_packed"


def unsupported(encoder: HuggingFaceEncoder) -> str | None:
    """Why this encoder can't run packed, in a few words; None where it can."""
    config = encoder.model.config
    heads = int(config.num_attention_heads)
    width = encoder.width // heads
    if config.model_type not in FIRST_POSITION:
        return f"model type {config.model_type} has position or attention rules of its own"
    if encoder.text_length > BLOCKS[-1]:
        return f"texts of up to {encoder.text_length} tokens exceed a tile of {BLOCKS[-1]}"
    if encoder.model.device.type == "cuda" and width not in (16, 32, 64, 128):
        return f"heads of width {width} do not fit the tiles"
    if not isinstance(encoder.pooling, (MeanPooling, ClsPooling)):
        return "its pooling reads padded rows"
    if any(module.p > 0 for module in encoder.modules() if isinstance(module, nn.Dropout)):
        return "dropout inside attention needs padded rows"
    return None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    groups: Tensor,
    text_of: Tensor,
    block: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, on [1, A, T, D]; the packing comes along as keyword arguments."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return short_attention(q, k, v, groups, text_of, scale, block)[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)


class _Cast(torch.autograd.Function):
    """Casts many tensors at once, and their gradients back at once: two launches instead of hundreds."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        cast = [torch.empty_like(weight, dtype=dtype) for weight in weights]
        torch._foreach_copy_(cast, list(weights))
        ctx.dtypes = [weight.dtype for weight in weights]
        ctx.set_materialize_grads(False)
        return tuple(cast)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        present = [gradient for gradient in gradients if gradient is not None]
        dtypes = [dtype for dtype, gradient in zip(ctx.dtypes, gradients, strict=True) if gradient is not None]
        back = [torch.empty_like(g, dtype=dtype) for g, dtype in zip(present, dtypes, strict=True)]
        torch._foreach_copy_(back, present)
        remaining = iter(back)
        return (None, *(None if gradient is None else next(remaining) for gradient in gradients))


class PackedEncoder(nn.Module):
    """The same encodings as `encoder` (whose parameters it shares), without computing padding.

    compute_dtype: what the layers compute in; embeddings, pooling and the encodings stay in the weights' own.
    compiled: compiles embeddings and layers, once for all layers and token counts.
    Raises ValueError where `unsupported` gives a reason.
    """

    def __init__(self, encoder: HuggingFaceEncoder, compute_dtype: torch.dtype | None = None, compiled: bool = False):
        super().__init__()
        reason = unsupported(encoder)
        if reason is not None:
            raise ValueError(f"the encoder can't run packed: {reason}")
        self.encoder = encoder
        self.width = encoder.width
        config = encoder.model.config
        self.block = next(block for block in BLOCKS if block >= encoder.text_length)
        first = FIRST_POSITION[config.model_type]
        self.first_position = int(config.pad_token_id) + 1 if first is None else first
        weight_dtype = next(encoder.model.parameters()).dtype
        self.compute_dtype = compute_dtype or weight_dtype
        self._skeleton = [_skeleton_of(encoder.model, self.compute_dtype)]
        embedded = {id(p) for p in encoder.model.get_submodule("embeddings").parameters()}
        pairs = list(zip(self._skeleton[0].named_parameters(), encoder.model.parameters(), strict=True))
        cast = self.compute_dtype != weight_dtype
        self._kept: list[tuple[str, Tensor]] = [(name, p) for (name, _), p in pairs if id(p) in embedded or not cast]
        self._cast = [(name, p) for (name, _), p in pairs if id(p) not in embedded and cast]
        if compiled:
            self._compile()

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Real tokens: nothing else is computed."""
        return lengths

    def forward(self, texts: Texts) -> Tensor:
        """Encodings [n, d] of texts on the host."""
        return self.encode(self.pack(texts).to(self.encoder.model.device))

    def pack(self, texts: Texts, token_capacity: int | None = None, text_capacity: int | None = None) -> PackedTexts:
        """Texts as `encode` reads them, on the host; raises ValueError for a text longer than the tile."""
        return pack(texts, self.block, self.encoder.pad_token_id, token_capacity, text_capacity)

    def encode(self, packed: PackedTexts) -> Tensor:
        """Encodings [n, d] of packed texts on the device, capacity rows and all."""
        weights: dict[str, Tensor] = dict(self._kept)
        if self._cast:
            names, masters = zip(*self._cast, strict=True)
            weights.update(zip(names, _Cast.apply(self.compute_dtype, *masters), strict=True))
        arguments = {
            "input_ids": packed.tokens[None].long(),
            "position_ids": (packed.positions[None] + self.first_position).long(),
            "groups": packed.groups,
            "text_of": packed.text_of,
            "block": self.block,
        }
        with torch.autocast(packed.tokens.device.type, enabled=False):
            states = torch.func.functional_call(self._skeleton[0], weights, (), arguments).last_hidden_state[0]
            return self._pool(states, packed)

    def _pool(self, states: Tensor, packed: PackedTexts) -> Tensor:
        dtype = next(self.encoder.model.parameters()).dtype
        if isinstance(self.encoder.pooling, ClsPooling):
            return states[packed.offsets[:-1].clamp(max=len(states) - 1)].to(dtype)
        return segment_mean(states, packed.offsets, packed.text_of).to(dtype)

    def _compile(self) -> None:
        for module in (self._skeleton[0].get_submodule("embeddings"), *_layers(self._skeleton[0])):
            module.forward = _compiled(module.forward)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` compiled once for every token count: dimensions that count tokens are marked as dynamic."""
    compiled = torch.compile(forward)

    def call(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                torch._dynamo.maybe_mark_dynamic(value, 1 if value.dim() > 1 else 0)
        return compiled(*args, **kwargs)

    return call


def _skeleton_of(model: PreTrainedModel, compute_dtype: torch.dtype) -> PreTrainedModel:
    """The model's structure without weights of its own, packed attention in place, embeddings cast on leaving."""
    skeleton = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    skeleton.set_attn_implementation(ATTENTION)
    skeleton.get_submodule("embeddings").register_forward_hook(
        lambda _module, _inputs, output: output.to(compute_dtype)
    )
    return skeleton


def _layers(model: nn.Module) -> nn.ModuleList:
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))
