"""A Hugging Face language model on packed texts: real tokens only, attention through tiles of several texts.

The model is transformers' own, with the parts replaced that `_skeleton` lists; its weights are read in the compute
dtype. T tokens packed, n texts, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gram_core.batch import Texts
from gram_core.encoders._skeleton import skeleton_of
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.pooling import ClsPooling, MeanPooling
from gram_core.kernels.segments import segment_mean
from gram_core.kernels.short_attention import BLOCKS
from gram_core.packing import PackedTexts, pack

FIRST_POSITION = {"bert": 0, "distilbert": 0, "roberta": None, "xlm-roberta": None}
"""Models that run packed, by `model_type`: the position id of a text's first token; None is padding id + 1."""


def unsupported(encoder: HuggingFaceEncoder) -> str | None:
    """Why this encoder can't run packed, in a few words; None where it can."""
    config = encoder.model.config
    heads = int(config.num_attention_heads)
    width = encoder.width // heads
    if config.model_type not in FIRST_POSITION:
        return f"model type {config.model_type} has position or attention rules of its own"
    if encoder.text_length > BLOCKS[-1]:
        return f"texts of up to {encoder.text_length} tokens exceed a tile of {BLOCKS[-1]}"
    if encoder.model.device.type == "cuda" and encoder.model.dtype == torch.float64:
        return "the tiles do not compute in float64"
    if encoder.model.device.type == "cuda" and width not in (16, 32, 64, 128):
        return f"heads of width {width} do not fit the tiles"
    if not isinstance(encoder.pooling, (MeanPooling, ClsPooling)):
        return "its pooling reads padded rows"
    if any(module.p > 0 for module in encoder.modules() if isinstance(module, nn.Dropout)):
        return "dropout inside attention needs padded rows"
    return None


class _Read(torch.autograd.Function):
    """Joins and casts many weights at once, and their gradients back at once: two launches instead of hundreds."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, sizes: tuple[int, ...], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.groups = list(_grouped(weights, sizes))
        ctx.set_materialize_grads(False)
        joined = [
            torch.empty((sum(len(w) for w in group), *group[0].shape[1:]), dtype=dtype, device=group[0].device)
            for group in ctx.groups
        ]
        targets = [
            part
            for whole, group in zip(joined, ctx.groups, strict=True)
            for part in whole.split([len(w) for w in group])
        ]
        torch._foreach_copy_(targets, list(weights))
        return tuple(joined)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        back: list[Tensor | None] = []
        parts: list[Tensor] = []
        for gradient, group in zip(gradients, ctx.groups, strict=True):
            if gradient is None:
                back.extend([None] * len(group))
            else:
                back.extend(torch.empty_like(weight) for weight in group)
                parts.extend(gradient.split([len(weight) for weight in group]))
        torch._foreach_copy_([gradient for gradient in back if gradient is not None], parts)
        return (None, None, *back)


def _grouped(weights: Sequence[Tensor], sizes: tuple[int, ...]) -> Iterator[Sequence[Tensor]]:
    start = 0
    for size in sizes:
        yield weights[start : start + size]
        start += size


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
        self._skeleton = skeleton_of(encoder.model, self.compute_dtype, self.first_position + encoder.text_length)
        embedded = {id(p) for p in encoder.model.get_submodule("embeddings").parameters()}
        cast = self.compute_dtype != weight_dtype
        self._kept: dict[str, Tensor] = {}
        self._read: dict[str, tuple[nn.Parameter, ...]] = {}
        for name, sources in self._skeleton.sources.items():
            if len(sources) == 1 and (id(sources[0]) in embedded or not cast):
                self._kept[name] = sources[0]
            else:
                self._read[name] = sources
        if compiled:
            for region in self._skeleton.regions:
                region.forward = _compiled(region.forward)

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
        masters = [parameter for sources in self._read.values() for parameter in sources]
        sizes = tuple(len(sources) for sources in self._read.values())
        read = _Read.apply(self.compute_dtype, sizes, *masters) if self._read else ()
        weights = self._kept | dict(zip(self._read, read, strict=True))
        arguments = {
            "input_ids": packed.tokens[None].long(),
            "position_ids": (packed.positions[None] + self.first_position).long(),
            "groups": packed.groups,
            "text_of": packed.text_of,
            "block": self.block,
        }
        with torch.autocast(packed.tokens.device.type, enabled=False):
            states = torch.func.functional_call(self._skeleton.model, weights, (), arguments).last_hidden_state[0]
            return self._pool(states, packed)

    def _pool(self, states: Tensor, packed: PackedTexts) -> Tensor:
        dtype = next(self.encoder.model.parameters()).dtype
        if isinstance(self.encoder.pooling, ClsPooling):
            return states[packed.offsets[:-1].clamp(max=len(states) - 1)].to(dtype)
        return segment_mean(states, packed.offsets, packed.text_of).to(dtype)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` compiled once for every token count: dimensions that count tokens are marked as dynamic."""
    compiled = torch.compile(forward)

    def call(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                torch._dynamo.maybe_mark_dynamic(value, 1 if value.dim() > 1 else 0)
        return compiled(*args, **kwargs)

    return call
